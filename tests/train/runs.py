"""Tiny training runs of the program, broken off in every way, and what they must leave. Standard library
only, on top of tests/system/program.py."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
from program import PROGRAM, WITH_TORCH  # noqa: E402

STOPPED = 3
KILLED = -9
TOO_LARGE = -25  # SIGXFSZ: killed in the middle of a write

RECIPE = {
    "name": "tiny", "task": "series",
    "model": {"spec": {
        "name": "tiny",
        "inputs": [{"name": "sensors", "kind": "grid", "index_dims": [16], "channels": 2,
                    "position": {"kind": "fourier", "num_bands": 4}}],
        "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                    "num_self_attends_per_block": 1},
        "decoder": {"output_channels": 16},
        "outputs": [{"name": "state", "query": "learned", "index_dims": [1], "channels": 16,
                     "head": "linear", "head_channels": 3, "single_row": True}],
        "compatibility": {"dropout": 0.1}}},
    "data": {"train_examples": 64, "test_examples": 70, "noise": 0.1},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 8, "steps": 40, "seed": 2}

# Every way to save: keys of the recipe, and the number of loaders.
PATTERNS = (
    ({"checkpoint_every": 1}, 0),
    ({"checkpoint_every": 2, "accumulate": 2, "evaluate_every": 5, "keep_best": "accuracy"}, 1),
    ({"checkpoint_every": 3, "average_decay": 0.9, "keep_checkpoints": 1}, 3),
    ({"checkpoint_every": 7, "optimiser": {"kind": "lamb", "learning_rate": 0.01},
      "evaluate_every": 4, "keep_best": "accuracy", "average_decay": 0.99}, 1),
)
CLOCK = ("seconds", "time", "examples_per_second", "step_seconds", "waiting_share")


def write_recipe(folder, **changes):
    path = Path(folder) / "recipe.json"
    path.write_text(json.dumps({**RECIPE, **changes}))
    return path


def start(recipe, out, *flags, loaders=1, file_limit=None):
    """A process that trains. file_limit: bytes after which writing any file kills it."""
    def limit():
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return subprocess.Popen(
        [PROGRAM, "train", str(recipe), "--out", str(out), "--threads", "1", "--loaders", str(loaders),
         "--json", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


def finish(process):
    """(exit code, lines of stdout, stderr)"""
    out, err = process.communicate(timeout=300)
    return process.returncode, out.splitlines(), err


def resume_flags(out):
    return ("--resume",) if list(Path(out).glob("training/checkpoint-*.safetensors")) else ()


def left_by(out):
    """What must not depend on how often a run was broken off: bytes by relative path."""
    left = {}
    for path in sorted(Path(out).rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or "tfevents" in name:
            continue
        left[name] = path.read_bytes()
        if name == "training/log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            left[name] = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
    return left


class RunsTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="perceiver-runs-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def straight(self, recipe, out, loaders=1):
        """A run that nothing breaks off. Returns what it leaves."""
        code, _, err = finish(start(recipe, out, loaders=loaders))
        self.assertEqual(code, 0, err)
        return left_by(out)

    def expect_same(self, out, wanted, but=()):
        found = left_by(out)
        self.assertEqual(sorted(set(found) - set(but)), sorted(set(wanted) - set(but)))
        for name, content in wanted.items():
            if name not in but:
                self.assertTrue(found[name] == content, f"{name} differs")

    def complete(self, recipe, out, loaders=1):
        code, _, err = finish(start(recipe, out, *resume_flags(out), loaders=loaders))
        self.assertEqual(code, 0, err)

    def kill_at_random(self, kills, seed, patterns=PATTERNS):
        """Kills runs of all patterns at `kills` random moments; each ends as if nobody had. Returns how
        many died while a file was being written."""
        draw = random.Random(seed)
        done = inside = 0
        for number, (keys, loaders) in enumerate(patterns):
            folder = self.folder / str(number)
            folder.mkdir()
            recipe = write_recipe(folder, **keys)
            wanted = self.straight(recipe, folder / "straight", loaders)
            out = folder / "broken"
            while done < kills * (number + 1) // len(patterns):
                process = start(recipe, out, *resume_flags(out), loaders=loaders)
                if draw.random() < 0.9:  # else also while it starts
                    process.stdout.readline()
                try:
                    process.wait(timeout=draw.uniform(0, 0.3))
                except subprocess.TimeoutExpired:
                    process.kill()
                code, _, err = finish(process)
                if code == 0:
                    self.expect_same(out, wanted)
                    shutil.rmtree(out)
                    continue
                self.assertEqual(code, KILLED, err)
                done += 1
                inside += bool(list(out.rglob(".tmp-*")) + list(out.glob(".best.pending*")))
            self.complete(recipe, out, loaders)
            self.expect_same(out, wanted)
        return inside


class FinishedRun(RunsTest):
    """A run that is over: its folder `out`, its stdout `lines`, its `log` parsed."""

    def setUp(self):
        super().setUp()
        recipe = write_recipe(self.folder, evaluate_every=10)
        self.out = self.folder / "out"
        code, self.lines, err = finish(start(recipe, self.out))
        self.assertEqual(code, 0, err)
        self.log = [json.loads(line)
                    for line in (self.out / "training/log.jsonl").read_text().splitlines()]


def main():
    if not WITH_TORCH or not os.path.exists(PROGRAM):
        print(f"skipped: {PROGRAM} does not train")
        raise SystemExit(77)
    unittest.main()
