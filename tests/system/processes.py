"""`perceiver train` as several processes, for the tests that start them."""

import json
import os
import signal
import subprocess
import time

from program import PROGRAM, SystemTest, read_safetensors

RECIPE = {
    "name": "together", "task": "series",
    "model": {"spec": {
        "name": "together",
        "inputs": [{"name": "sensors", "kind": "grid", "index_dims": [16], "channels": 2,
                    "position": {"kind": "fourier", "num_bands": 4}}],
        "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                    "num_self_attends_per_block": 1},
        "decoder": {"output_channels": 16},
        "outputs": [{"name": "state", "query": "learned", "index_dims": [1], "channels": 16,
                     "head": "linear", "head_channels": 3, "single_row": True}]}},
    "data": {"train_examples": 640, "test_examples": 32, "noise": 0.1},
    "optimiser": {"kind": "sgd", "learning_rate": 0.05},
    "schedule": {"kind": "constant"},
    "batch_size": 8, "steps": 20, "seed": 2}
ENDLESS = {"steps": 1000000, "schedule": {"kind": "constant", "steps": 1000000}}
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
             "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


def clean_environment():
    return {key: value for key, value in os.environ.items() if key not in LAUNCHERS}


class Processes(SystemTest):
    count = 0

    def recipe(self, **changes):
        Processes.count += 1
        path = self.path(f"recipe{Processes.count}.json")
        path.write_text(json.dumps({**RECIPE, **changes}))
        return path

    def start(self, recipe, out, *options, size=2, last=()):
        """Starts `size` processes that meet in a file; returns them by rank. `last`: more options
        of the last one."""
        Processes.count += 1
        meeting = self.path(f"meeting{Processes.count}")
        started = []
        for rank in range(size):
            process = subprocess.Popen(
                [PROGRAM, "train", str(recipe), "--out", str(self.path(out)), "--threads", "1",
                 *options, *(last if rank == size - 1 else ())],
                env={**clean_environment(), "RANK": str(rank), "WORLD_SIZE": str(size),
                     "PERCEIVER_RENDEZVOUS": f"file:{meeting}", "GLOO_SOCKET_IFNAME": "lo"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.addCleanup(self.end, process)
            started.append(process)
        return started

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()

    def finish(self, processes, timeout=120):
        """Waits; returns (code, stdout, stderr) of each."""
        answers = []
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            answers.append((process.returncode, out, err))
        return answers

    def train(self, recipe, out, *options, size=2, code=0):
        answers = self.finish(self.start(recipe, out, *options, size=size))
        for answer in answers:
            self.assertEqual(answer[0], code, answers)
        return answers

    def alone(self, recipe, out, *options):
        self.train(recipe, out, *options, size=1)

    def weights(self, out):
        return read_safetensors(self.path(out) / "model.safetensors")

    def assert_near(self, one, other, delta):
        one, other = self.weights(one), self.weights(other)
        self.assertEqual(one.keys(), other.keys())
        for name, (_, shape, values) in one.items():
            self.assertEqual(shape, other[name][1])
            for a, b in zip(values, other[name][2]):
                self.assertAlmostEqual(a, b, delta=delta, msg=name)

    def wait_for_steps(self, process, out):
        """Until the first checkpoint is there."""
        while process.poll() is None:
            if any((self.path(out) / "training").glob("checkpoint-*")):
                return
            time.sleep(0.02)
        self.fail(f"ended early: {process.communicate()}")

    def killed(self, rank, size=2):
        out = f"killed{rank}"
        processes = self.start(self.recipe(**ENDLESS, checkpoint_every=5), out, size=size)
        self.wait_for_steps(processes[0], out)
        began = time.monotonic()
        processes[rank].kill()
        answers = self.finish(processes, timeout=60)
        del answers[rank]
        for code, _, err in answers:
            self.assertEqual(code, 1, err)
        self.assertLess(time.monotonic() - began, 60)
        return [err for _, _, err in answers]
