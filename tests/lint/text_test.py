"""tools/check_text.py: the tracked files pass, and each rule catches what it is for."""

import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("PERCEIVER_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
sys.path.insert(0, str(ROOT / "tools"))
import check_text  # noqa: E402


class Text(unittest.TestCase):
    def test_the_tree_passes(self):
        self.assertEqual(check_text.violations(ROOT), [])

    def test_refuses_machine_paths(self):
        for path in ("/" + "home/me/x", "x=/" + "tmp/y", '"/' + 'root/z"'):
            self.assertEqual(len(list(check_text.check_text(path))), 1, path)

    def test_refuses_index_hosts(self):
        self.assertEqual(len(list(check_text.check_text("https://pypi." + "org/simple"))), 1)

    def test_accepts_relative_paths_and_words(self):
        for text in ("../shared/data", "net" + "work/x", "build/ro" + "ot/x", "src/ho" + "me/x"):
            self.assertEqual(list(check_text.check_text(text)), [], text)

    def test_refuses_huge_files_outside_models(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("big.bin", "models/a/big.safetensors"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(b"\0" * (check_text.MAX_BYTES + 1))
            found = check_text.violations(root)
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith("big.bin:"), found)


if __name__ == "__main__":
    unittest.main()
