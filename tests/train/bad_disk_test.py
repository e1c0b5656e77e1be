"""Training on a full disk and in a folder that cannot be written: a clear message, nothing lost."""

import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

from runs import RunsTest, finish, left_by, main, start, write_recipe

MOUNTED = "PERCEIVER_TEST_MOUNTED"  # set in the process that may mount


def mount(folder, options, *more):
    subprocess.run(["mount", *more, "-o", options, str(folder)], check=True, capture_output=True)


class BadDisk(RunsTest):
    """Runs inside a mount namespace of its own."""

    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        mount(self.disk, "size=1m", "-t", "tmpfs", "none")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.disk)], check=False)
        self.out = self.disk / "run"

    def begin(self, **keys):
        """A recipe, what it leaves undisturbed, and its first half on the disk."""
        recipe = write_recipe(self.folder, checkpoint_every=20, keep_checkpoints=1, **keys)
        wanted = self.straight(recipe, self.folder / "straight")
        code, _, err = finish(start(recipe, self.out, "--set", "steps=20", "--set", "schedule.steps=40"))
        self.assertEqual(code, 0, err)
        return recipe, wanted

    def test_a_full_disk(self):
        recipe, wanted = self.begin()
        filler = self.disk / "filler"
        with open(filler, "wb") as file:
            left = shutil.disk_usage(self.disk).free
            file.write(b"x" * (left - 16384))  # less than a checkpoint
        before = left_by(self.out)
        code, _, err = finish(start(recipe, self.out, "--resume"))
        self.assertEqual(code, 1, err)
        self.assertIn("No space left on device", err)
        self.assertIn(str(self.out), err)
        self.assertEqual(err.count("\n"), 1, err)
        after = left_by(self.out)
        checkpoint = "training/checkpoint-000000020.safetensors"
        self.assertEqual(after[checkpoint], before[checkpoint])
        self.assertFalse([name for name in after if ".tmp-" in name])
        filler.unlink()
        self.complete(recipe, self.out)
        self.expect_same(self.out, wanted)

    def test_a_folder_that_cannot_be_written(self):
        recipe, wanted = self.begin()
        before = left_by(self.out)
        mount(self.disk, "remount,ro")
        for flags in (("--resume",), ("--restart",)):
            code, lines, err = finish(start(recipe, self.out, *flags))
            self.assertEqual((code, lines), (1, []), err)
            self.assertIn("Read-only file system", err)
            self.assertIn(str(self.out), err)
        self.assertEqual(left_by(self.out), before)
        mount(self.disk, "remount,rw")
        self.complete(recipe, self.out)
        self.expect_same(self.out, wanted)


def may_mount():
    """The command before ours that gives it a mount namespace; None where there is none to be had."""
    for flags in ("-m", "-rm"):
        command = ["unshare", flags]
        try:
            done = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
        except OSError:
            return None
        if done.returncode == 0:
            return command
    return None


if __name__ == "__main__":
    if MOUNTED in os.environ:
        main()
    namespace = may_mount()
    if namespace is None:
        print("skipped: file systems cannot be mounted here")
        raise SystemExit(77)
    raise SystemExit(subprocess.run([*namespace, sys.executable, __file__, *sys.argv[1:]],
                                    env={**os.environ, MOUNTED: "1"}).returncode)
