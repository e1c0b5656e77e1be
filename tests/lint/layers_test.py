"""tools/check_layers.py: the tree passes, and each rule catches what it is for."""

import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("PERCEIVER_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
sys.path.insert(0, str(ROOT / "tools"))
import check_layers  # noqa: E402


def violations_of(path, text):
    """What is wrong with a tree that holds this one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
        return check_layers.violations(pathlib.Path(folder))


class Layers(unittest.TestCase):
    def test_the_tree_passes(self):
        self.assertEqual(check_layers.violations(ROOT), [])

    def test_the_tree_is_not_empty(self):
        self.assertGreater(len(list(check_layers.room_files(ROOT))), 20)

    def test_the_table_has_no_circles(self):
        for room, needs in check_layers.NEEDS.items():
            for other in needs:
                self.assertNotIn(room, check_layers.NEEDS[other], f"{room} and {other}")

    def assert_refused(self, path, text, word):
        found = violations_of(path, text)
        self.assertEqual(len(found), 1, found)
        self.assertIn(word, found[0])
        self.assertTrue(found[0].startswith(path + ":"), found[0])

    def test_refuses_a_room_outside_the_table(self):
        self.assert_refused("src/base/x.cpp", '#include "perceiver/io/image.h"\n', "may not include room 'io'")
        self.assert_refused("include/perceiver/spec/x.h",
                            '#pragma once\n#include "perceiver/nn/model.h"\n', "may not include room 'nn'")

    def test_refuses_a_private_header_of_another_room(self):
        self.assert_refused("src/tasks/x.cpp", '#include "nn/layers.h"\n', "private to room 'nn'")

    def test_refuses_a_private_header_in_a_public_one(self):
        self.assert_refused("include/perceiver/nn/x.h", '#pragma once\n#include "nn/layers.h"\n',
                            "includes the private")

    def test_refuses_third_parties_in_the_wrong_room(self):
        self.assert_refused("src/tokens/x.cpp", "#include <ATen/core/Tensor.h>\n", "may not include <ATen")
        self.assert_refused("src/tasks/x.cpp", "#include <libavformat/avformat.h>\n", "(only io)")
        self.assert_refused("src/tasks/x.cpp", "#include <CLI/CLI.hpp>\n", "(only cli)")

    def test_refuses_the_slow_headers_everywhere(self):
        self.assert_refused("src/nn/x.cpp", "#include <torch/torch.h>\n", "half a minute")
        self.assert_refused("tests/nn/x_test.cpp", "#include <torch/nn.h>\n", "half a minute")

    def test_refuses_full_json_in_a_public_header(self):
        self.assert_refused("include/perceiver/base/x.h", "#pragma once\n#include <nlohmann/json.hpp>\n",
                            "json_fwd")

    def test_refuses_headers_without_a_guard_and_with_using(self):
        self.assert_refused("src/io/x.h", "int f();\n", "#pragma once")
        self.assert_refused("src/io/x.h", "#pragma once\nusing namespace std;\n", "using namespace")

    def test_refuses_long_files_and_unknown_rooms(self):
        self.assert_refused("src/io/x.cpp", "int x;\n" * 801, "801 lines")
        self.assert_refused("src/misc/x.cpp", "int x;\n", "'misc' is not a room")

    def test_refuses_unrooted_and_angled_includes_of_our_own(self):
        self.assert_refused("src/io/x.cpp", '#include "image.h"\n', "include root")
        self.assert_refused("src/io/x.cpp", "#include <perceiver/io/image.h>\n", "with quotes")

    def test_accepts_what_is_allowed(self):
        self.assertEqual(violations_of("src/nn/x.cpp", '#include "perceiver/nn/model.h"\n#include <vector>\n'
                                       '#include <ATen/ops/mm.h>\n#include "nn/layers.h"\n'
                                       '#include "perceiver/base/error.h"\n'), [])


if __name__ == "__main__":
    unittest.main()
