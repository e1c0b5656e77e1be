#!/usr/bin/env python3
"""Checks that the library neither prints nor ends the process: no object refers to such a function.

  tools/check_symbols.py libperceiver_*.a

Needs `nm` (binutils). Exits 77 (skipped) without it.
"""

import re
import shutil
import subprocess
import sys

FORBIDDEN = re.compile(
    r"^(?:(?:v|__v|__)?f?printf(?:_chk)?|puts|putchar|perror|stdout|stderr"
    r"|std::(?:w?cout|w?cerr|w?clog)"
    r"|abort|exit|_exit|_Exit|quick_exit|system|popen|exec[lv]p?e?)$")


def undefined_symbols(archive):
    """Yields (object, demangled name without its arguments and version) for everything it lacks."""
    listing = subprocess.run(["nm", "-C", "--undefined-only", archive], check=True,
                             capture_output=True, text=True).stdout
    member = "?"
    for line in listing.splitlines():
        if line.endswith(":"):
            member = line[:-1]
        elif line.strip():
            yield member, re.split(r"[(@]", line.split(maxsplit=1)[1])[0]


def violations(archives):
    return [f"{archive}({member}): refers to {name}"
            for archive in archives
            for member, name in undefined_symbols(archive) if FORBIDDEN.match(name)]


def main():
    if shutil.which("nm") is None:
        print("SKIPPED: needs nm")
        return 77
    found = violations(sys.argv[1:])
    print("\n".join(found) if found else f"symbols: {len(sys.argv) - 1} libraries, nothing prints or exits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
