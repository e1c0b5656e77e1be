"""A whole step of `perceiver train` against transformers with torch.optim.AdamW: loading, forward, backward, optimiser.

    python bench/whole_step.py --program build/bin/perceiver [--model NAME] [--batch-size B]
                               [--steps K] [--rounds R] [--threads N]

language-perceiver is trained as a masked language model on the text of docs/, both sides from the same weights;
vision-perceiver-fourier to tell pictures of noise by their folder, optical-flow-perceiver on generated frames. There
transformers is spared the reading: it gets random numbers of the same shapes. No dropout on either side. The two take
turns, R times, each a process of its own that makes one step to warm up and K that count. Ours is the program with a
recipe, its seconds are those of its log, from the end of one step to the end of the next; peak memory is that of the
processes, as the kernel counts it, so ours includes measuring and writing the model at the end. The losses of the
first step are on other data: they tell that both train the same thing, no more. A line of JSON on stdout.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys

import numpy as np
from PIL import Image

import cases
from train_step import HERE, finished

import report  # of tools/oracle, which train_step put on the path

CLASSES = 4


def text_task(config, folder, work):
    with open(os.path.join(work, "text"), "w", encoding="utf-8") as text:
        for page in sorted(glob.glob(os.path.join(report.root(), "docs", "*.md"))):
            with open(page, encoding="utf-8") as file:
                text.write(file.read())
    return {"task": "masked_language_model", "start_from": os.path.abspath(folder),
            "data": {"files": [{"path": "text"}], "short_fraction": 0},
            "masking": {"rate": 0.15, "byte_weight": 1, "word_weight": 0}}


def picture_task(config, folder, work):
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        place = os.path.join(work, "pictures", str(label))
        os.makedirs(place, exist_ok=True)
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (256, 256, 3), np.uint8)).save(os.path.join(place, f"{i}.png"))
    config["id2label"] = {str(label): str(label) for label in range(CLASSES)}
    config["label2id"] = {str(label): label for label in range(CLASSES)}
    return {"task": "image_classification",
            "data": {"format": "folder", "train_folder": "pictures", "test_folder": "pictures", "resize": "plain"},
            "preprocessor": {"do_resize": True, "size": {"height": 224, "width": 224}, "do_center_crop": False,
                             "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                             "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}}


def flow_task(config, folder, work):
    return {"task": "optical_flow", "data": {"train": [{"layout": "generated", "examples": 100}],
                                             "test": [{"layout": "generated", "examples": 1}]}}


TASKS = {"language-perceiver": text_task, "vision-perceiver-fourier": picture_task, "optical-flow-perceiver": flow_task}


def recipe_of(folder, options):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config["attention_probs_dropout_prob"] = 0
    task = TASKS[options.model](config, folder, options.work)
    return {"name": "whole-step", "model": {"hugging_face": config}, **task,
            "optimiser": {"kind": "adamw", "learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6,
                          "weight_decay": 0.01, "clip_norm": 1.0},
            "schedule": {"kind": "constant"}, "batch_size": options.batch_size, "steps": options.steps + 1,
            "evaluate_limit": 1, "seed": 1}


class WholeStep:
    def __init__(self, options):
        self.options = options
        os.makedirs(options.work, exist_ok=True)
        self.folder = self.path(options.model)
        cases.make_model(options.program, options.model, self.folder)
        with open(self.path("recipe.json"), "w", encoding="utf-8") as file:
            json.dump(recipe_of(self.folder, options), file)

    def path(self, leaf):
        return os.path.join(self.options.work, leaf)

    def ours(self):
        log = self.path("ours.jsonl")
        with open(log, "w", encoding="utf-8") as stdout:
            peak = finished([self.options.program, "train", self.path("recipe.json"), "--data", self.options.work,
                             "--out", self.path("out"), "--restart", "--json", "--threads",
                             str(self.options.threads)], stdout=stdout, stderr=subprocess.DEVNULL)
        with open(log, encoding="utf-8") as file:
            steps = [record for record in map(json.loads, file) if "step_seconds" in record]
        return {"seconds": [record["step_seconds"] for record in steps], "loss": steps[0]["loss"], "peak": peak}

    def theirs(self):
        result = self.path("theirs.json")
        peak = finished([sys.executable, os.path.join(HERE, "whole_worker.py"), self.folder,
                         self.path("recipe.json"), self.path("text"), str(self.options.threads), result])
        with open(result, encoding="utf-8") as file:
            return {**json.load(file), "peak": peak}

    def run(self):
        row = {"model": os.path.basename(self.folder), "batch_size": self.options.batch_size,
               "threads": self.options.threads}
        for side in ("ours", "theirs"):
            row.update({side + "_seconds": [], side + "_peak_rss": 0})
        for _ in range(self.options.rounds):
            for side, result in (("ours", self.ours()), ("theirs", self.theirs())):
                if len(result["seconds"]) != self.options.steps + 1:
                    sys.exit(f"{side}: {len(result['seconds'])} of {self.options.steps + 1} steps were timed")
                row[side + "_seconds"] += result["seconds"][1:]
                row[side + "_peak_rss"] = max(row[side + "_peak_rss"], result["peak"])
                row[side + "_first_loss"] = result["loss"]
        row["ratio"] = statistics.median(row["theirs_seconds"]) / statistics.median(row["ours_seconds"])
        row["memory_share"] = row["ours_peak_rss"] / row["theirs_peak_rss"]
        return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--model", default="language-perceiver", choices=list(TASKS))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench", "whole"))
    print(json.dumps(WholeStep(parser.parse_args()).run()))


if __name__ == "__main__":
    main()
