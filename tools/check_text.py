#!/usr/bin/env python3
"""Checks what no tracked file may contain: paths of one machine, index host names, huge files.

  tools/check_text.py [SOURCE_ROOT]
"""

import pathlib
import re
import subprocess
import sys

MAX_BYTES = 1 << 20
# Written in pieces so that this file passes its own check.
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:" + "|".join(("wor" + "k", "roo" + "t", "hom" + "e", "tm" + "p")) + r")/\w")
INDEX_HOST = re.compile("|".join((r"pypi\." + "org", r"pythonhosted\." + "org", r"download\.pytorch\." + "org",
                                  r"deb\.debian\." + "org")))


def tracked_files(root):
    """Paths relative to `root`; everything present when it is not a git checkout (a release)."""
    try:
        listing = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], check=True,
                                 capture_output=True).stdout
        return [pathlib.Path(name.decode()) for name in listing.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        return [p.relative_to(root) for p in root.rglob("*")
                if p.is_file() and p.relative_to(root).parts[0] not in ("build", ".git")]


def check_text(text):
    """Yields (line number, message)."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in ((MACHINE_PATH, "a path of one machine"),
                              (INDEX_HOST, "the host name of a package index")):
            match = pattern.search(line)
            if match:
                yield number, f"{what}: '{match.group(0)}'"


def violations(root):
    found = []
    for name in tracked_files(root):
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        if path.stat().st_size > MAX_BYTES and name.parts[0] != "models":
            found.append(f"{name}:1: {path.stat().st_size} bytes; at most {MAX_BYTES} outside models/")
        data = path.read_bytes()
        if b"\0" in data[:8192] or len(data) > 4 * MAX_BYTES:
            continue
        text = data.decode("utf-8", errors="replace")
        found += [f"{name}:{line}: {message}" for line, message in check_text(text)]
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    found = violations(root.resolve())
    print("\n".join(found) if found else "text: nothing that should not be there")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
