"""tools/check_symbols.py: the built libraries neither print nor exit; a library that does is caught."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("PERCEIVER_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BUILD = pathlib.Path(os.environ.get("PERCEIVER_BINARY_DIR", ROOT / "build"))
sys.path.insert(0, str(ROOT / "tools"))
import check_symbols  # noqa: E402


@unittest.skipUnless(shutil.which("nm"), "needs nm")
class Symbols(unittest.TestCase):
    def test_the_libraries_pass(self):
        archives = sorted(str(path) for path in BUILD.glob("libperceiver_*.a"))
        self.assertTrue(archives, f"no libraries in {BUILD}")
        self.assertEqual(check_symbols.violations(archives), [])

    @unittest.skipUnless(shutil.which("g++") and shutil.which("ar"), "needs g++ and ar")
    def test_catches_each_way_to_print_or_exit(self):
        bodies = {
            "stdout": '#include <cstdio>\nvoid f(int x) { std::printf("%d", x); std::fflush(stdout); }',
            "stderr": '#include <cstdio>\nvoid f(int x) { std::fprintf(stderr, "%d", x); }',
            "puts": '#include <cstdio>\nvoid f() { std::puts("x"); }',
            "std::cout": "#include <iostream>\nvoid f() { std::cout << 1; }",
            "std::cerr": "#include <iostream>\nvoid f() { std::cerr << 1; }",
            "abort": "#include <cstdlib>\nvoid f() { std::abort(); }",
            "exit": "#include <cstdlib>\nvoid f() { std::exit(1); }",
            "system": '#include <cstdlib>\nint f() { return std::system("x"); }',
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, body in bodies.items():
                archive = self.compile(folder, body)
                found = [symbol for _, symbol in check_symbols.undefined_symbols(archive)]
                self.assertIn(name, found)
                self.assertTrue(check_symbols.violations([archive]), name)
            quiet = self.compile(folder, '#include <cstdio>\n'
                                 'void f(char* s, int x) { std::snprintf(s, 9, "%d", x); }')
            self.assertEqual(check_symbols.violations([quiet]), [])

    @staticmethod
    def compile(folder, body):
        source, archive = pathlib.Path(folder) / "x.cpp", pathlib.Path(folder) / "libx.a"
        source.write_text(body)
        archive.unlink(missing_ok=True)
        subprocess.run(["g++", "-O2", "-c", str(source), "-o", f"{folder}/x.o"], check=True)
        subprocess.run(["ar", "rcs", str(archive), f"{folder}/x.o"], check=True)
        return str(archive)


if __name__ == "__main__":
    unittest.main()
