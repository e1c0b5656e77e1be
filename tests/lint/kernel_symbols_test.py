"""Objects of the instruction sets: nothing in them may replace, at link time, code that runs on every CPU."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("PERCEIVER_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BUILD = pathlib.Path(os.environ.get("PERCEIVER_BINARY_DIR", ROOT / "build"))
ARCHIVE = BUILD / "libperceiver_kernels.a"
INSTRUCTION_SET = re.compile(r"_(avx2|avx512|avx512bf16|amx|portable)\.cpp")
# W, w, V, v: weak; u: unique. Exception tables name their routine weakly, which is data of the linker.
SHARED = set("WwVvu")


def shared_symbols(path):
    """Returns 'object: symbol' for each weak or unique definition in the objects of instruction sets."""
    output = subprocess.run(["nm", "-C", "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
    member, found = "", []
    for line in output.splitlines():
        if line.endswith(":"):
            member = line[:-1]
            continue
        parts = line.split(None, 2)
        if len(parts) == 3 and parts[1] in SHARED and (INSTRUCTION_SET.search(member) or path.suffix == ".o"):
            found.append(f"{member}: {parts[2]}")
    return found


@unittest.skipUnless(shutil.which("nm"), "needs nm")
class KernelSymbols(unittest.TestCase):
    @unittest.skipUnless(ARCHIVE.exists(), "the kernels are not built")
    def test_no_object_of_an_instruction_set_defines_a_shared_symbol(self):
        members = subprocess.run(["nm", str(ARCHIVE)], check=True, capture_output=True, text=True).stdout
        self.assertRegex(members, INSTRUCTION_SET)
        self.assertEqual(shared_symbols(ARCHIVE), [])

    @unittest.skipUnless(shutil.which("g++"), "needs g++")
    def test_catches_a_standard_container(self):
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder) / "x.cpp", pathlib.Path(folder) / "x.o"
            source.write_text("#include <vector>\nint f(std::vector<int>& v, int x) { v.push_back(x); return v[0]; }")
            subprocess.run(["g++", "-O2", "-c", str(source), "-o", str(target)], check=True)
            self.assertNotEqual(shared_symbols(target), [])


if __name__ == "__main__":
    unittest.main()
