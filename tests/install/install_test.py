"""`cmake --install` and find_package(Perceiver): a project outside the tree builds, links and answers
what the program answers; the installed program runs from where it was installed."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(os.environ["PERCEIVER_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["PERCEIVER_BINARY_DIR"])
WORK = BUILD / "install_test"
WITH_TORCH = os.environ.get("PERCEIVER_WITH_TORCH", "ON") == "ON"
TORCH_ROOMS = ("nn", "train", "distributed")


def run(*command):
    """Runs a command; its output is shown only when it fails."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("CMAKE_PREFIX_PATH", "Torch_DIR")}
    done = subprocess.run([str(part) for part in command], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}")
    return done.stdout


def write_inputs(path):
    """A time series [1, 256, 8] for examples/specs/timeseries.json, as safetensors."""
    count = 256 * 8
    header = json.dumps({"inputs": {"dtype": "F32", "shape": [1, 256, 8],
                                    "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    values = [(7 * i % 64) / 32 - 1 for i in range(count)]
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *values))


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        cls.prefix = WORK / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)

    def test_an_example_outside_the_tree_answers_like_the_program(self):
        # Outside the source tree in every sense: nothing of it is on the include path.
        shutil.copytree(SOURCE / "examples/embed", WORK / "embed")
        launcher = [f"-DCMAKE_CXX_COMPILER_LAUNCHER={shutil.which('ccache')}"] if shutil.which("ccache") else []
        run("cmake", "-S", WORK / "embed", "-B", WORK / "embed_build", "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={self.prefix}",
            "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *launcher)
        run("cmake", "--build", WORK / "embed_build", "-j", "2")

        program = self.prefix / "bin/perceiver"
        model, inputs = WORK / "model", WORK / "in.safetensors"
        run(program, "init", "--spec", SOURCE / "examples/specs/timeseries.json", "--seed", "1", model)
        write_inputs(inputs)
        run(program, "forward", "--model", model, "--inputs", inputs, "--outputs", WORK / "program.safetensors")
        run(WORK / "embed_build/forward", model, inputs, WORK / "example.safetensors")
        answer = (WORK / "program.safetensors").read_bytes()
        self.assertGreater(len(answer), 1000)
        self.assertEqual(answer, (WORK / "example.safetensors").read_bytes())

    def test_every_public_header_is_installed(self):
        def headers(root):
            return {str(path.relative_to(root)) for path in root.rglob("*.h")}
        expected = {name for name in headers(SOURCE / "include/perceiver")
                    if WITH_TORCH or not name.startswith(TORCH_ROOMS)}
        self.assertEqual(headers(self.prefix / "include/perceiver"), expected)

    def test_nothing_installed_names_the_source_tree(self):
        for path in (self.prefix / "lib").rglob("*.cmake"):
            text = path.read_text()
            # The folder of LibTorch may lie in the build folder; it is a hint that Torch_DIR overrides.
            lines = [line for line in text.splitlines()
                     if str(SOURCE) in line and "PERCEIVER_TORCH_HINT" not in line]
            self.assertEqual(lines, [], path)


if __name__ == "__main__":
    if not (BUILD / "bin/perceiver").exists():
        print("SKIPPED: the program is not built")
        sys.exit(77)
    unittest.main()
