"""Runs that are killed, resumed and end as if nothing had happened, bit for bit."""

import signal

from runs import PATTERNS, STOPPED, TOO_LARGE, RunsTest, finish, main, start, write_recipe


class KilledRuns(RunsTest):
    def test_at_random_moments(self):
        self.kill_at_random(kills=8, seed=1, patterns=PATTERNS[1:3])

    def test_inside_a_save(self):
        """Killed after a given number of bytes of a checkpoint: the one before stays the newest."""
        recipe = write_recipe(self.folder, checkpoint_every=20, keep_checkpoints=1)
        wanted = self.straight(recipe, self.folder / "straight")
        newest = self.folder / "straight/training/checkpoint-000000040.safetensors"
        out = self.folder / "broken"
        process = start(recipe, out, "--set", "steps=20", "--set", "schedule.steps=40")
        self.assertEqual(finish(process)[0], 0)
        for limit in (30000, newest.stat().st_size - 1):
            code, lines, err = finish(start(recipe, out, "--resume", file_limit=limit))
            self.assertEqual(code, TOO_LARGE, err)
            self.assertTrue(list(out.glob("training/.tmp-*")), "it died elsewhere")
            self.assertTrue((out / "training/checkpoint-000000020.safetensors").exists())
        self.complete(recipe, out)
        self.expect_same(out, wanted)

    def test_between_a_save_and_the_removal_of_the_one_before(self):
        recipe = write_recipe(self.folder, checkpoint_every=20, keep_checkpoints=1)
        out = self.folder / "out"
        wanted = self.straight(recipe, out)
        newest = out / "training/checkpoint-000000040.safetensors"
        (out / "training/checkpoint-000000020.safetensors").write_bytes(newest.read_bytes())
        self.complete(recipe, out)
        self.expect_same(out, wanted)

    def test_signals_save_and_leave_with_a_code_of_their_own(self):
        recipe = write_recipe(self.folder, evaluate_every=5, steps=200)
        wanted = self.straight(recipe, self.folder / "straight")
        out = self.folder / "broken"
        for number, flags in ((signal.SIGTERM, ()), (signal.SIGINT, ("--resume",))):
            process = start(recipe, out, *flags)
            process.stdout.readline()
            process.send_signal(number)
            code, lines, err = finish(process)
            self.assertEqual(code, STOPPED, err)
            self.assertIn('"stopped":true', lines[-1])
        self.complete(recipe, out)
        # A signal left the one checkpoint more.
        self.expect_same(out, wanted, but=[
            f"training/{path.name}" for path in out.glob("training/checkpoint*")
            if path.name != "checkpoint-000000200.safetensors"])


if __name__ == "__main__":
    main()
