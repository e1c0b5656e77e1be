"""`perceiver train` on two machines, as network namespaces of this one joined by a virtual cable."""

import os
import shutil
import signal
import subprocess
import sys

from processes import ENDLESS, Processes, clean_environment
from program import PROGRAM, WITH_TORCH, main

CABLE = "wire"
ADDRESSES = ("10.213.0.1", "10.213.0.2")
PORT = "29400"  # each namespace has all ports to itself


def ip(*arguments):
    return subprocess.run(["ip", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)


def machine(rank):
    return f"perceiver-{os.getpid()}-{rank}"


def lay_cable():
    """Two namespaces with an end of the cable each. Returns what went wrong, or None."""
    steps = [["netns", "add", machine(rank)] for rank in (0, 1)]
    steps += [["link", "add", CABLE, "netns", machine(0), "type", "veth", "peer", "name", CABLE,
               "netns", machine(1)]]
    for rank in (0, 1):
        steps += [["-n", machine(rank), "addr", "add", f"{ADDRESSES[rank]}/24", "dev", CABLE],
                  ["-n", machine(rank), "link", "set", CABLE, "up"],
                  ["-n", machine(rank), "link", "set", "lo", "up"]]
    for step in steps:
        done = ip(*step)
        if done.returncode != 0:
            return f"ip {' '.join(step)}: {done.stdout.strip()}"
    return None


def remove_machines():
    for rank in (0, 1):
        ip("netns", "delete", machine(rank))


class TwoMachines(Processes):
    def start_machines(self, recipe, out, *options):
        started = []
        for rank in (0, 1):
            process = subprocess.Popen(
                ["ip", "netns", "exec", machine(rank), PROGRAM, "train", str(recipe), "--out",
                 str(self.path(f"{out}{rank}")), "--threads", "1", *options],
                env={**clean_environment(), "RANK": str(rank), "WORLD_SIZE": "2",
                     "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.addCleanup(self.end, process)
            started.append(process)
        return started

    def test_equal_one_process_without_a_shared_folder(self):
        answers = self.finish(self.start_machines(self.recipe(), "apart"))
        for code, _, err in answers:
            self.assertEqual(code, 0, err)
        self.assertIn(f"Gloo through {ADDRESSES[0]}", answers[0][2])
        self.assertFalse(self.path("apart1").exists())  # rank 0 writes
        self.alone(self.recipe(batch_size=16), "doubled")
        self.assert_near("doubled", "apart0", 1e-6)

    def test_a_cut_cable_ends_both_in_time(self):
        processes = self.start_machines(self.recipe(**ENDLESS, checkpoint_every=5), "cut",
                                        "--timeout", "3")
        self.wait_for_steps(processes[0], "cut0")
        self.assertEqual(ip("-n", machine(1), "link", "set", CABLE, "down").returncode, 0)
        try:
            answers = self.finish(processes, timeout=60)
        finally:
            ip("-n", machine(1), "link", "set", CABLE, "up")
        for code, _, err in answers:
            self.assertEqual(code, 1, err)
        self.assertRegex(answers[0][2], r"rank 0 of 2.*rank 1 \(.*\) is silent")
        self.assertRegex(answers[1][2], r"rank 1 of 2.*rank 0")


if __name__ == "__main__":
    problem = ("this program does not train" if not WITH_TORCH
               else "there is no ip program" if shutil.which("ip") is None
               else "only root can make network namespaces" if os.geteuid() != 0
               else lay_cable())
    if problem:
        remove_machines()
        print(f"skipped: {problem}")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ctest's timeout: clean up first
    try:
        main()
    finally:
        remove_machines()
