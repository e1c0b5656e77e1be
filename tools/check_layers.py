#!/usr/bin/env python3
"""Checks which room includes what, and the few rules a compiler does not check.

  tools/check_layers.py [SOURCE_ROOT]

Prints one line per violation (file:line: what is wrong) and exits 1 if there is any.
"""

import pathlib
import re
import sys

# Room -> rooms it may include, itself always. The same table is in CMakeLists.txt (NEEDS).
NEEDS = {
    "base": set(),
    "kernels": set(),
    "spec": {"base"},
    "io": {"base"},
    "tokens": {"base", "spec"},
    "runtime": {"base", "kernels", "spec", "tokens"},
    "nn": {"base", "kernels", "spec", "tokens"},
    "tasks": {"base", "kernels", "spec", "io", "tokens", "nn", "runtime"},
    "distributed": {"base"},
    "train": {"base", "spec", "io", "tokens", "nn", "tasks", "distributed"},
    "serve": {"base", "spec", "io", "tokens", "tasks"},
    "cli": {"base", "kernels", "spec", "io", "tokens", "nn", "runtime", "tasks", "train", "distributed",
            "serve"},
}

# First folder of a third-party include -> rooms that may have it (headers, sources).
EVERY_ROOM = set(NEEDS)
TORCH_ROOMS = {"nn", "train", "distributed"}
THIRD_PARTY = {
    "ATen": TORCH_ROOMS,
    "c10": TORCH_ROOMS,
    "torch": TORCH_ROOMS,
    "nlohmann": EVERY_ROOM,
    "CLI": {"cli"},
    "dnnl.hpp": {"runtime"},
    "dnnl.h": {"runtime"},
    **{f"libav{part}": {"io"} for part in ("codec", "filter", "format", "util", "device")},
    "libswscale": {"io"},
    "libswresample": {"io"},
}

# Half a minute of parsing each; ATen/core/Tensor.h and ATen/ops/*.h say the same in three seconds.
FORBIDDEN = {
    "torch/torch.h", "torch/all.h", "torch/nn.h", "torch/extension.h", "torch/script.h",
    "ATen/ATen.h", "ATen/Functions.h",
}
# Their public structs hold JSON by value.
FULL_JSON_ROOMS = {"tasks", "train"}
MAX_LINES = 800
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
USING = re.compile(r"^\s*using\s+namespace\b")


def check_include(room, is_public_header, bracket, name):
    """Returns what is wrong with one #include in `room`, or None."""
    if name in FORBIDDEN:
        return f"<{name}> takes half a minute to parse; include the single headers it stands for"
    parts = name.split("/")
    included_room = parts[1] if parts[0] == "perceiver" and len(parts) > 2 else parts[0]
    is_ours = parts[0] == "perceiver" or (included_room in NEEDS and len(parts) > 1)
    if is_ours:
        if bracket == "<":
            return f'our own headers are included with quotes: "{name}"'
        if included_room not in NEEDS and len(parts) > 2:
            return f"'{included_room}' is not a room"
        if len(parts) == 2 and parts[0] == "perceiver":
            return f"{name} is for users; a room includes the headers it needs"
        if included_room != room and included_room not in NEEDS[room]:
            return f"room '{room}' may not include room '{included_room}' ({name})"
        if parts[0] != "perceiver" and included_room != room:
            return f"{name} is private to room '{included_room}'"
        if parts[0] != "perceiver" and is_public_header:
            return f"a public header includes the private {name}"
        return None
    allowed = THIRD_PARTY.get(parts[0])
    if allowed is not None and room not in allowed:
        return f"room '{room}' may not include <{name}> (only {', '.join(sorted(allowed))})"
    full_json = parts[0] == "nlohmann" and name != "nlohmann/json_fwd.hpp"
    if full_json and is_public_header and room not in FULL_JSON_ROOMS:
        return f"a public header includes <{name}>; nlohmann/json_fwd.hpp is enough"
    if bracket == '"':
        return f'"{name}": write the path from the include root, "<room>/..." or "perceiver/<room>/..."'
    return None


def check_file(path, room, is_public_header, text):
    """Yields (line number, message)."""
    lines = text.splitlines()
    is_header = path.suffix == ".h"
    if len(lines) > MAX_LINES:
        yield MAX_LINES, f"{len(lines)} lines; split it by meaning (at most {MAX_LINES})"
    if is_header and "#pragma once" not in [line.strip() for line in lines]:
        yield 1, "a header starts with #pragma once"
    for number, line in enumerate(lines, 1):
        include = INCLUDE.match(line)
        if include and room:
            message = check_include(room, is_public_header, *include.groups())
            if message:
                yield number, message
        elif include and include.group(2) in FORBIDDEN:
            yield number, check_include("nn", False, *include.groups())
        if is_header and USING.match(line):
            yield number, "`using namespace` in a header reaches everybody who includes it"


def room_files(root):
    """Yields (path, room or None, is it a public header)."""
    for pattern in ("*.h", "*.cpp", "*.inl"):
        for path in sorted((root / "src").rglob(pattern)):
            yield path, path.relative_to(root / "src").parts[0], False
        for path in sorted((root / "include/perceiver").rglob(pattern)):
            parts = path.relative_to(root / "include/perceiver").parts
            # include/perceiver/*.h is the umbrella for users: it belongs to no room.
            yield path, parts[0] if len(parts) > 1 else None, True
        for folder in ("tests", "examples", "bench"):
            for path in sorted((root / folder).rglob(pattern)):
                yield path, None, False


def violations(root):
    """Returns 'file:line: message' for everything wrong below `root`."""
    found = []
    for path, room, is_public in room_files(root):
        name = path.relative_to(root)
        if room is not None and room not in NEEDS:
            found.append(f"{name}:1: '{room}' is not a room; add it to NEEDS in tools/check_layers.py")
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{name}:{line}: {message}" for line, message in check_file(path, room, is_public, text)]
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    found = violations(root.resolve())
    print("\n".join(found) if found else "layers: every include is allowed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
