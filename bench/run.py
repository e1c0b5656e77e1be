"""`make bench`: `perceiver forward` against transformers eager on the six released configurations.

    python bench/run.py --program build/bin/perceiver [--models NAME ...] [--rounds K] [--threads N]

Random weights from `perceiver init`. Outputs are compared first: a time counts only if they agree.
Then the two take turns in one run, same threads: ours (a process per turn), theirs (one process kept
alive). A turn is one forward to warm up and two that count. Only forward is timed, not loading.
Peak memory is that of a process of its own that loads the model and runs once, as the kernel counts it.
Writes docs/performance.md, the short table of README.md and build/bench/results.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tools", "oracle"))
import full_models  # noqa: E402
import report  # noqa: E402

AGREE = 1e-3  # of the largest logit; float32 noise of both is far below
ROUNDS = {"optical-flow-perceiver": 1}  # a forward takes most of a minute
DEFAULT_ROUNDS = 3
COUNTED = 2  # forwards of a turn, after one to warm up
FLOW_LIMIT = 2.5 * 2**30


def timed_process(command):
    """Runs `command`; its peak resident bytes."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return usage.ru_maxrss * 1024


class Peer:
    """transformers in a process of its own."""

    def __init__(self, folder, threads):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "peer_worker.py"), folder, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the transformers process ended early")
        return json.loads(line)

    def forward(self, inputs, outputs=None):
        self.process.stdin.write(json.dumps({"inputs": inputs, "outputs": outputs}) + "\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Bench:
    def __init__(self, name, options):
        self.name, self.options = name, options
        self.work = os.path.join(options.work, name)
        os.makedirs(self.work, exist_ok=True)
        self.folder, self.inputs = self.path("model"), self.path("in.safetensors")

    def path(self, leaf):
        return os.path.join(self.work, leaf)

    def our_command(self, repeat):
        return [self.options.program, "forward", "--model", self.folder, "--inputs", self.inputs,
                "--outputs", self.path("ours.safetensors"), "--threads", str(self.options.threads),
                "--repeat", str(repeat), "--stats", self.path("stats.json")]

    def ours(self):
        timed_process(self.our_command(1 + COUNTED))
        with open(self.path("stats.json"), encoding="utf-8") as file:
            return json.load(file)["forward_seconds"][-COUNTED:]

    def theirs(self, peer):
        return [peer.forward(self.inputs) for _ in range(1 + COUNTED)][-COUNTED:]

    def memory(self):
        ours = timed_process(self.our_command(1))
        theirs = timed_process([sys.executable, os.path.join(HERE, "peer_worker.py"), self.folder,
                                str(self.options.threads), self.inputs, self.path("theirs.safetensors")])
        return ours, theirs

    def difference(self):
        """Largest difference between the outputs of the memory runs, as a share of the largest value."""
        ours, theirs = (load_file(self.path(leaf)) for leaf in ("ours.safetensors", "theirs.safetensors"))
        worst = 0.0
        for output, expected in theirs.items():
            given = ours[output][:, : expected.shape[1]] if output == "logits" else ours[output]
            if given.shape != expected.shape:
                sys.exit(f"{self.name}: {output} is {given.shape}, transformers gives {expected.shape}")
            worst = max(worst, float(np.abs(given - expected).max() / np.abs(expected).max()))
        if not worst <= AGREE:
            sys.exit(f"{self.name}: outputs differ by {worst:.1e} of the largest value; no time counts")
        return worst

    def run(self):
        subprocess.run([self.options.program, "init", "--preset", self.name, "--seed", "1", self.folder],
                       check=True, stdout=subprocess.DEVNULL)
        save_file(full_models.inputs(self.name), self.inputs)
        our_memory, their_memory = self.memory()
        difference = self.difference()
        peer = Peer(self.folder, self.options.threads)
        ours, theirs = [], []
        for _ in range(self.options.rounds or ROUNDS.get(self.name, DEFAULT_ROUNDS)):
            ours += self.ours()
            theirs += self.theirs(peer)
        peer.close()
        return {"model": self.name, "difference": difference, "ours_seconds": ours, "theirs_seconds": theirs,
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "ours_peak_rss": our_memory, "theirs_peak_rss": their_memory}


def spread(seconds):
    return f"{statistics.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})"


def cells(result):
    gibibytes = [f"{result[key] / 2**30:.2f} GiB" for key in ("ours_peak_rss", "theirs_peak_rss")]
    return [result["model"], f"{result['difference']:.1e}", spread(result["ours_seconds"]),
            spread(result["theirs_seconds"]), f"{result['ratio']:.2f}x", *gibibytes]


def verdicts(results):
    """What must hold, and does not."""
    for result in results:
        name = result["model"]
        if result["ratio"] < 1:
            yield f"{name}: slower than transformers"
        if result["ours_peak_rss"] > result["theirs_peak_rss"]:
            yield f"{name}: more memory than transformers"
        if name == "optical-flow-perceiver" and result["ours_peak_rss"] >= FLOW_LIMIT:
            yield f"{name}: peak memory at or over 2.5 GiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--models", nargs="*", default=full_models.NAMES)
    parser.add_argument("--rounds", type=int, default=0, help="turns per model; default 3, flow 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench"))
    parser.add_argument("--no-page", action="store_true", help="print only, leave docs/performance.md alone")
    options = parser.parse_args()
    results = []
    for name in options.models:
        results.append(Bench(name, options).run())
        print("  ".join(cells(results[-1])), flush=True)
    about = {"commit": report.commit(), "cpu": report.cpu(), "threads": options.threads,
             "peer": report.versions(sys.executable)}
    with open(os.path.join(options.work, "results.json"), "w", encoding="utf-8") as file:
        json.dump({**about, "results": results}, file, indent=1)
    header = ["model", "outputs differ by", "ours: median (range)", "transformers: median (range)", "speed ratio",
              "our peak memory", "transformers peak memory"]
    text = (f"{about['peer']}; commit {about['commit']}; {about['cpu']}; {options.threads} threads, float32.\n\n"
            + report.table(header, map(cells, results)))
    if not options.no_page:
        report.replace_section(os.path.join(report.root(), "docs", "performance.md"), "bench", text)
        short = report.table(["model", "speed against transformers eager", "our peak memory", "theirs"],
                             [[row[0], *row[4:]] for row in map(cells, results)])
        report.replace_section(os.path.join(report.root(), "README.md"), "ratios", short)
    misses = list(verdicts(results))
    print("\n".join(misses), file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
