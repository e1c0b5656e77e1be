"""One training step (forward and backward) of ours against transformers' own autograd, eager.

    python bench/train_step.py --program build/bin/perceiver [--step build/bin/train_step] [--models NAME ...]
                               [--rounds K] [--threads N]

Random weights from `perceiver init`; the loss is the mean square of the outputs. Loss and the norm of every
gradient are compared first: a time counts only if they agree. Then the two take turns, each a process of its own
that makes one step to warm up and as many as --rounds that count; flow, whose first step is as slow as its second,
counts it. Peak memory is that of these processes, as the kernel counts it. One line of JSON per model on stdout;
also writes build/bench/train_step.jsonl and a section of docs/performance.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tools", "oracle"))
import full_models  # noqa: E402
import cases  # noqa: E402
import page  # noqa: E402
import report  # noqa: E402

AGREE = 2e-3  # of the larger: a gradient's norm in float32 against another order of float32
# speed at least, memory at most: of transformers'
GOALS = {"optical-flow-perceiver": (4.0, 1 / 6), "vision-perceiver-fourier": (2.0, 1 / 2),
         "language-perceiver": (1.2, 1.0)}
ROUNDS = {"optical-flow-perceiver": 1}


def finished(command, **streams):
    """Runs `command`; its peak resident bytes."""
    with subprocess.Popen(command, **streams) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return usage.ru_maxrss * 1024


def difference(model, ours, theirs):
    """Largest relative difference of the losses and of the norms of gradients that count."""
    both = [("loss", ours["loss"], theirs["loss"])]
    largest = max(theirs["gradient_norms"].values())
    for name, norm in theirs["gradient_norms"].items():
        given = ours["gradient_norms"].get(name, 0.0)
        if max(norm, given) > 1e-4 * largest:  # below is rounding noise of both
            both.append((name, given, norm))
    name, given, norm = max(both, key=lambda entry: abs(entry[1] - entry[2]) / max(entry[1], entry[2]))
    worst = abs(given - norm) / max(given, norm)
    if not worst <= AGREE:
        sys.exit(f"{model}: {name} is {given:.6g}, transformers has {norm:.6g}; no time counts")
    return worst


class Bench:
    def __init__(self, name, options):
        self.name, self.options = name, options
        self.work = os.path.join(options.work, name)
        os.makedirs(self.work, exist_ok=True)

    def path(self, leaf):
        return os.path.join(self.work, leaf)

    def measure(self, side, steps):
        """Runs `steps` training steps of one side in a process of its own."""
        program = [self.options.step] if side == "ours" else [sys.executable, os.path.join(HERE, "train_worker.py")]
        result = self.path(side + ".json")
        peak = finished([*program, self.path("model"), self.path("in.safetensors"), str(self.options.threads),
                         str(steps), result])
        with open(result, encoding="utf-8") as file:
            return {**json.load(file), "peak": peak}

    def run(self):
        cases.make_model(self.options.program, self.name, self.path("model"))
        save_file(full_models.inputs(self.name), self.path("in.safetensors"))
        warm = 0 if self.name in ROUNDS else 1
        seconds, peak = {"ours": [], "theirs": []}, {"ours": 0, "theirs": 0}
        worst, plans = 0.0, {}
        for _ in range(self.options.rounds or ROUNDS.get(self.name, 2)):
            results = {side: self.measure(side, warm + 1) for side in ("ours", "theirs")}
            worst, plans = max(worst, difference(self.name, **results)), results["ours"]["plans"]
            for side, result in results.items():
                seconds[side] += result["seconds"][warm:]
                peak[side] = max(peak[side], result["peak"])
        return {"model": self.name, "difference": worst, "plans": plans,
                "ours_seconds": seconds["ours"], "theirs_seconds": seconds["theirs"],
                "ratio": statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]),
                "ours_peak_rss": peak["ours"], "theirs_peak_rss": peak["theirs"],
                "memory_share": peak["ours"] / peak["theirs"]}


def misses(result):
    """What must hold, and does not."""
    speed, memory = GOALS.get(result["model"], (1.0, 1.0))
    if result["ratio"] < speed:
        yield f"{result['model']}: a training step is {result['ratio']:.2f}x transformers' speed, wanted {speed}x"
    if result["memory_share"] > memory:
        yield f"{result['model']}: it takes {result['memory_share']:.2f} of the memory, wanted {memory:.2f}"


def earlier(path, but):
    """Rows of former calls for other models, by model."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return {row["model"]: row for row in rows if row["model"] not in but}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--step", default="build/bin/train_step")
    parser.add_argument("--models", nargs="*", default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=0, help="turns per model; default 2, flow 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-page", action="store_true", help="print only")
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench", "train"))
    options = parser.parse_args()
    missed, kept = [], os.path.join(options.work, "..", "train_step.jsonl")
    results = earlier(kept, options.models)
    for name in options.models:
        result = Bench(name, options).run()
        print(json.dumps(result), flush=True)
        missed += misses(result)
        results[name] = result
        with open(kept, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(results[name]) + "\n" for name in GOALS if name in results)
    if not options.no_page:
        about = f"`make bench-training`; commit {report.commit()}; {report.cpu()}; {options.threads} threads."
        report.replace_section(os.path.join(report.root(), "docs", "performance.md"), "training",
                               about + "\n\n" + page.training_table(kept))
    print("\n".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
