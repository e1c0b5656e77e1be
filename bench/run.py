"""`make bench`: `perceiver forward` against three ways to run transformers, on the six released configurations.

    python bench/run.py --program build/bin/perceiver [--models NAME ...] [--rounds K] [--peers NAME ...]
                        [--ours NAME ...] [--threads N] [--quick] [--add] [--no-page]

Random weights from `perceiver init`, the same input, the same number of threads. Outputs are compared with
transformers eager first: a column whose answers differ gets no time. Then the columns take turns in one run;
a turn warms up with one forward, then counts. Only the forward is timed, not loading, converting or compiling.
Peak memory: ours and eager's is that of a process of its own that loads the model and runs once; torch.compile's
and OpenVINO's that of the process that converts and runs. Also the share of the machine's matrix-product peak,
measured in the same run, and the stack of self-attention by itself (bench/stack.py).

Prints what each row reached of its target (bench/cases.py). Writes build/bench/results.json and, when every row
was run, docs/performance.md and the table of README.md. About 25 minutes on two cores; with --add the rows may be
measured in several calls, each row still in one run.
"""

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import load_file, save_file

import cases
import columns
import page
import stack
from cases import full_models

import report

AGREE = 1e-3  # of the largest output; float32 noise of all columns is far below
COUNTED = {"textbook": 1, "nn": 1}  # forwards that count in a turn
DEFAULT_COUNTED = 2
LONG = 10.0  # seconds; of so slow a forward one counts
QUICK = ["language-perceiver", "fill-mask, one word of 60 bytes", "vision-perceiver-conv"]


def difference(given, expected):
    """Largest difference as a share of the largest value."""
    worst = 0.0
    for name, value in expected.items():
        if name not in given or given[name].shape != value.shape:
            raise columns.Skip(f"{name} is {given.get(name, np.zeros(0)).shape}, transformers gives {value.shape}")
        worst = max(worst, float(np.abs(given[name] - value).max() / np.abs(value).max()))
    return worst


class Run:
    """One case: its columns, started, compared, timed."""

    def __init__(self, case, options, peers):
        self.case, self.options, self.peers = case, options, peers
        self.work = os.path.join(options.work, case.name.replace(",", "").replace(" ", "-"))
        self.model = os.path.join(options.work, "models", case.preset)
        os.makedirs(self.work, exist_ok=True)
        self.columns, self.skipped, self.differences = [], {}, {}

    def prepare(self):
        cases.make_model(self.options.program, self.case.preset, self.model)
        self.our_inputs, self.peer_inputs = (os.path.join(self.work, leaf) for leaf in ("in.safetensors", "peer-in.safetensors"))
        save_file(self.case.our_inputs(), self.our_inputs)
        save_file(self.case.peer_inputs(), self.peer_inputs)

    def wanted(self):
        """Columns in the order of the table; transformers eager first, as the others are compared with it."""
        yield "eager"
        yield from self.options.ours
        yield from (name for name in self.case.peers if name != "eager" and name in self.options.peers)

    def make(self, name):
        if name in columns.Ours.FLAGS:
            return columns.Ours(name, self.options, self.work, self.model, self.our_inputs)
        if name in self.peers:
            self.peers[name].use(self.work, self.peer_inputs)
        else:
            self.peers[name] = columns.Peer(name, self.options, self.work, self.model, self.peer_inputs)
        return self.peers[name]

    def start(self):
        for name in self.wanted():
            if name in self.case.skipped:
                self.skipped[name] = self.case.skipped[name]
                continue
            column = self.make(name)
            try:
                column.start()
                if name != "eager":
                    self.differences[name] = self.compare(column)
                self.columns.append(column)
            except columns.Skip as reason:
                self.skipped[name] = str(reason)
                column.stop()
                print(f"  {self.case.name}: no {columns.LABELS[name]}: {reason}", file=sys.stderr)
                if name == "eager":
                    sys.exit("without transformers there is nothing to compare with")

        next((c for c in self.columns if isinstance(c, columns.Ours)), self.columns[0]).measures_peak = True

    def compare(self, column):
        expected = load_file(self.columns[0].answers)
        answers = load_file(column.answers)
        if isinstance(column, columns.Ours):
            answers, expected = self.case.comparable(answers, expected)
        apart = difference(answers, expected)
        if not apart <= AGREE:
            raise columns.Skip(f"its answers differ by {apart:.1e} of the largest value; no time counts")
        return apart

    def time(self):
        for _ in range(self.options.rounds or self.case.rounds):
            for column in self.columns:
                slow = column.seconds and column.seconds[-1] > LONG
                whole = self.case.peer_chunks > 1 and isinstance(column, columns.Ours)
                column.turn(1 if slow or whole else COUNTED.get(column.name, DEFAULT_COUNTED), 0 if whole else 1)

    def errors(self):
        """Our error and transformers' against transformers in float64, kept between runs."""
        digest = hashlib.sha256(open(self.peer_inputs, "rb").read())
        with open(os.path.join(self.model, "model.safetensors"), "rb") as file:
            digest.update(file.read(1 << 24))
        exact_file = os.path.join(self.options.work, "exact", f"{self.case.preset}-{digest.hexdigest()[:16]}.safetensors")
        if not os.path.exists(exact_file):
            if not self.case.exact and not self.options.exact:
                return {}
            os.makedirs(os.path.dirname(exact_file), exist_ok=True)
            subprocess.run([sys.executable, full_models.__file__, "forward", self.model, self.peer_inputs, exact_file, "f64",
                            str(self.options.threads)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        exact = load_file(exact_file)
        errors = {}
        for column in self.columns:
            given = load_file(column.answers)
            expected = exact
            if isinstance(column, columns.Ours):
                given, expected = self.case.comparable(given, exact)
            errors[column.name] = difference(given, expected)
        return errors

    def result(self):
        scale = {c.name: 1 if isinstance(c, columns.Ours) else self.case.peer_chunks for c in self.columns}
        ours = [c for c in self.columns if isinstance(c, columns.Ours)]
        if not ours:
            sys.exit(f"{self.case.name}: none of our engines ran")
        subject = ours[0]
        return {
            "case": self.case.name, "subject": subject.name, "target": vars(self.case.target),
            "columns": {c.name: {"seconds": [s * scale[c.name] for s in c.seconds],
                                 "median": statistics.median(c.seconds) * scale[c.name], "peak_rss": c.peak,
                                 "prepare_seconds": getattr(c, "prepare_seconds", 0)} for c in self.columns},
            "skipped": self.skipped, "differences": self.differences, "errors": self.errors(),
            "peer_chunks": self.case.peer_chunks, "stats": subject.stats,
            "gemm_peak_flops": max(subject.peaks, default=0),
        }

    def run(self):
        self.prepare()
        self.start()
        self.time()
        return self.result()


def kept(options):
    """With --add: earlier rows of this commit, but for those that run now."""
    path = os.path.join(options.work, "results.json")
    if not options.add or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        earlier = json.load(file)
    now = {case.name for case in options.cases}
    return [r for r in earlier["results"] if r["case"] not in now] if earlier["commit"] == report.commit() else []


def in_order(results):
    order = [case.name for case in cases.CASES]
    return sorted(results, key=lambda r: order.index(r["case"]))


def run_all(options):
    """Results in the order of the table. Cases of one model share its peers."""
    results, peers, preset = kept(options), {}, None
    started = time.perf_counter()
    try:
        for case in options.cases:
            if case.preset != preset:
                stop(peers)
            preset = case.preset
            results.append(Run(case, options, peers).run())
            results[-1]["verdicts"] = page.verdicts(results[-1])
            print(f"{page.one_line(results[-1])}  [{time.perf_counter() - started:.0f} s]", flush=True)
            save(options, in_order(results), {})
    finally:
        stop(peers)
    return in_order(results)


def stop(peers):
    for peer in peers.values():
        peer.stop()
    peers.clear()


def about(options):
    return {"commit": report.commit(), "cpu": report.cpu(), "threads": options.threads,
            "versions": report.versions(sys.executable),
            "command": "make bench" if options.add or len(sys.argv) <= 3 else shlex.join(["bench/run.py", *sys.argv[1:]])}


def save(options, results, more):
    with open(os.path.join(options.work, "results.json"), "w", encoding="utf-8") as file:
        json.dump({**about(options), "results": results, **more}, file, indent=1)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [case.name for case in cases.CASES]
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--models", nargs="*", default=None, help="rows whose name begins so: " + "; ".join(names))
    parser.add_argument("--rounds", type=int, default=0, help="turns of each column; default 3, large models 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", default=["compile", "openvino"], choices=["compile", "openvino"],
                        help="beside transformers eager")
    parser.add_argument("--ours", nargs="*", default=list(columns.Ours.FLAGS), choices=list(columns.Ours.FLAGS),
                        help="the first that runs is compared with the peers")
    parser.add_argument("--exact", action="store_true", help="float64 runs of every model, slow and 14 GiB")
    parser.add_argument("--quick", action="store_true", help="one round of the small models, eager alone, no page")
    parser.add_argument("--add", action="store_true", help="keep rows measured before at this commit")
    parser.add_argument("--no-stack", action="store_true", help="without the stack of self-attention by itself")
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench"))
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    if options.quick:
        options.models, options.rounds, options.peers = options.models or QUICK, options.rounds or 1, []
    wanted = options.models or names
    options.cases = [c for c in cases.CASES if any(c.name.startswith(w) for w in wanted)]
    if not options.cases:
        parser.error("no row is called so; there are " + "; ".join(names))
    return options


def main():
    options = parse()
    os.makedirs(options.work, exist_ok=True)
    results = run_all(options)
    more = {} if options.quick or options.no_stack else {"stack": stack.measure(options)}
    save(options, results, more)
    if len(results) == len(cases.CASES) and not options.no_page:
        page.write(os.path.join(options.work, "results.json"))
    print(page.targets_table(results))
    misses = [f"{r['case']}: {v['what']} is {v['reached']}, wanted {v['wanted']}" for r in results
              for v in r["verdicts"] if not v["met"]]
    print("\n".join(["Missed:", *misses] if misses else ["Every target is met."]))
    wrong = [r["case"] for r in results for reason in r["skipped"].values() if "answers differ" in reason]
    return 1 if wrong else 0  # a slow machine is no failure, a wrong answer is


if __name__ == "__main__":
    sys.exit(main())
