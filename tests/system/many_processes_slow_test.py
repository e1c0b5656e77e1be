"""`perceiver train` as several processes: the slower ways to end, and to go on."""

import os
import signal
import subprocess
import sys

from processes import ENDLESS, Processes, clean_environment
from program import PROGRAM, WITH_TORCH, main


class Ends(Processes):
    # stopped, not dead: its connections stay open

    def test_a_frozen_process_is_given_up_after_the_timeout(self):
        processes = self.start(self.recipe(**ENDLESS, checkpoint_every=5), "frozen", "--timeout", "2")
        self.wait_for_steps(processes[0], "frozen")
        processes[1].send_signal(signal.SIGSTOP)
        code, _, err = self.finish(processes[:1], timeout=60)[0]
        self.assertEqual(code, 1, err)
        self.assertRegex(err, r"rank 0 of 2.*rank 1 \(.*process \d+\) is silent")

    def test_the_death_of_rank_0_is_told_too(self):
        self.assertIn("rank 1 of 2", self.killed(0)[0])


class Torchrun(Processes):
    def test_starts_the_processes_and_keeps_the_store(self):
        python = os.environ.get("PERCEIVER_PYTHON", sys.executable)
        if subprocess.run([python, "-c", "import torch.distributed.run"], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest(f"{python} has no torchrun")
        done = subprocess.run(
            [python, "-m", "torch.distributed.run", "--no-python", "--standalone",
             "--nproc-per-node", "2", PROGRAM, "train", str(self.recipe()), "--out",
             str(self.path("torchrun")), "--threads", "1"],
            env=clean_environment(), timeout=120, check=False, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("rank 0 of 2 (torchrun)", done.stderr)
        self.train(self.recipe(), "by-hand")
        self.assert_near("torchrun", "by-hand", 0)


class Resuming(Processes):
    def test_two_processes_go_on_as_if_nothing_had_been(self):
        schedule = {"kind": "constant", "steps": 12}
        self.train(self.recipe(steps=12, schedule=schedule), "straight")
        self.train(self.recipe(steps=6, schedule=schedule), "broken")
        self.train(self.recipe(steps=12, schedule=schedule), "broken", "--resume")
        self.assert_near("straight", "broken", 0)


if __name__ == "__main__":
    if not WITH_TORCH:
        print("skipped: this program does not train")
        sys.exit(77)
    main()
