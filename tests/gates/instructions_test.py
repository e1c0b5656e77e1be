#!/usr/bin/env python3
"""Instructions of a few hot paths, counted by callgrind, against those of instructions.json.

  tests/gates/instructions_test.py [--update]

Wall time on shared machines says little; instruction counts repeat to a few in a million. They belong to one
compiler version and one kernel set, so another compiler skips. valgrind 3.19 knows AVX2 but not AVX-512. A count
may grow by TOLERANCE; one that fell by more is worth --update (`make gates-update`), which rewrites the file.
Exit codes: 0 as recorded, 1 grown, 77 nothing to compare.
"""

import json
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
RECORD = os.path.join(HERE, "instructions.json")
PATHS = ["encode_factored", "decode_factored", "self_attention", "seven_products", "engine_forward"]
SETS = ["avx2", "portable"]
TOLERANCE = 0.05


def skip(reason):
    print(f"SKIPPED: gates.instructions: {reason}")
    sys.exit(77)


def count(program, path, kernels, folder):
    """Instructions of gate_measured(), or None if this machine can't run the kernels."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PERCEIVER_KERNELS": kernels, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=gate_measured",
         f"--callgrind-out-file={os.path.join(folder, 'callgrind.out')}", program, path],
        env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{path} with {kernels}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    if done.stdout.split()[-1:] != [kernels]:
        return None
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def counts(program, compiler, folder):
    """{path: count} for each kernel set that has a record or is to get one."""
    with open(RECORD, encoding="utf-8") as file:
        recorded = json.load(file)
    known = recorded.get(compiler, {})
    found = {kernels: {path: count(program, path, kernels, folder) for path in PATHS} for kernels in SETS}
    return recorded, known, {kernels: row for kernels, row in found.items() if None not in row.values()}


def judge(known, found):
    grown = 0
    for kernels, row in found.items():
        for path, now in row.items():
            before = known.get(kernels, {}).get(path)
            if before is None:
                print(f"{kernels} {path}: {now:,}, not recorded")
                continue
            change = now / before - 1
            grown += change > TOLERANCE
            print(f"{kernels} {path}: {now:,}, recorded {before:,}, {change:+.2%}"
                  + (f"; at most +{TOLERANCE:.0%}" if change > TOLERANCE else ""))
    return grown


def main():
    build = os.environ.get("PERCEIVER_BINARY_DIR", "build")
    program = os.path.join(build, "bin", "gate_hot_paths")
    compiler = os.environ.get("PERCEIVER_COMPILER", "")
    update = sys.argv[1:] == ["--update"]
    if not shutil.which("valgrind"):
        skip("valgrind is not installed (apt-get install valgrind)")
    if not os.path.exists(program):
        skip(f"{program} is not built")
    with open(RECORD, encoding="utf-8") as file:
        compilers = list(json.load(file))
    if not compiler or (compiler not in compilers and not update):
        skip(f"counts are of {', '.join(compilers) or 'no compiler'}, this is {compiler or 'unknown'}")
    recorded, known, found = counts(program, compiler, build)
    if update:
        recorded[compiler] = {**known, **found}
        with open(RECORD, "w", encoding="utf-8") as file:
            json.dump(recorded, file, indent=1, sort_keys=True)
            file.write("\n")
    return 1 if judge(known, found) and not update else 0


if __name__ == "__main__":
    sys.exit(main())
