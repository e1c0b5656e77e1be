"""`make bench-scaling`: time and peak memory against the number of inputs read and of outputs asked for.

    python bench/scaling.py --program build/bin/perceiver [--largest N] [--engine NAME] [--budget SIZE] [--rounds K]
                            [--no-page]

Models of one width whose grid grows: 64 content channels with Fourier positions of two axes are read into 256
latents; or 1,000 tokens are read and a grid of Fourier queries is answered. 10^3 to 10^7 tokens or outputs, with
and without a bound on working memory (the largest input, 2.4 GiB, is larger than the bound; under one, parts of the
input file that have been read are let go). Peak memory is the largest resident size of the process, mapped parts of
the input file and the answers included.

Wanted: what one more token (or output) costs beyond the first 1,000 within 15 % from 10^4 to 10^7, peak memory
within 10 % from 10^3 to 10^7: above the input file, which is mapped, and under the bound outright; answers
apart. Sizes take turns; a time is the median of all forwards: the best of many short ones would be compared
with the best of a few long ones, which no quiet moment can hold. Writes build/bench/scaling.json and, unless told not
to, docs/scaling.svg and its section of docs/performance.md.
"""

import argparse
import json
import math
import os
import statistics
import struct
import subprocess
import sys

import numpy as np

import columns
import page  # noqa: F401 - puts tools/oracle on the path

import report

CONTENT, LATENTS, WIDTH, BANDS = 64, 256, 512, 16
SIDES = {10**3: (25, 40), 10**4: (100, 100), 10**5: (250, 400), 10**6: (1000, 1000), 10**7: (2500, 4000)}
TIME_BAND, MEMORY_BAND = 0.15, 0.10
ANSWER_CHANNELS = 2
OFTEN, VISITS = 10**5, 3  # sizes that differ by milliseconds come so often in a turn
SMALLEST = min(SIDES)
MIB = 2**20


def positions():
    return {"kind": "fourier", "num_bands": BANDS, "max_resolution": [64, 64]}


def spec(inputs, outputs):
    return {
        "name": "scaling",
        "inputs": [{"name": "x", "kind": "grid", "index_dims": inputs, "channels": CONTENT, "position": positions()}],
        "encoder": {"num_latents": LATENTS, "latent_channels": WIDTH, "num_self_attends_per_block": 2,
                    "self_attend": {"num_heads": 8}},
        "decoder": {"output_channels": ANSWER_CHANNELS},
        "outputs": [{"name": "y", "query": "fourier", "index_dims": outputs, "position": positions()}],
    }


def write_inputs(path, sides, block=1 << 22):
    """A safetensors file of one F32 tensor [1, H, W, 64], a block of numbers at a time."""
    shape = [1, *sides, CONTENT]
    count = math.prod(shape)
    header = json.dumps({"inputs.x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for begin in range(0, count, block):
            file.write(random.standard_normal(min(block, count - begin), np.float32).tobytes())
        file.flush()
        os.fsync(file.fileno())  # or the system writes it out while the program is timed


class Point:
    """One size of one side."""

    def __init__(self, side, size, options):
        self.side, self.size, self.options = side, size, options
        self.work = os.path.join(options.work, "scaling", f"{side}-{size}")
        os.makedirs(self.work, exist_ok=True)
        small = list(SIDES[SMALLEST])
        self.grid = list(SIDES[size])
        self.spec = spec(self.grid, [1, 1]) if side == "inputs" else spec(small, self.grid)
        self.row = {"side": side, "size": size}
        self.seconds = {}  # of all forwards, by way

    def path(self, leaf):
        return os.path.join(self.work, leaf)

    def prepare(self):
        with open(self.path("spec.json"), "w", encoding="utf-8") as file:
            json.dump(self.spec, file)
        subprocess.run([self.options.program, "init", "--spec", file.name, "--seed", "1", "--quiet",
                        self.path("model")], check=True, stdout=subprocess.DEVNULL)
        write_inputs(self.path("in.safetensors"), self.spec["inputs"][0]["index_dims"])
        self.row["input_bytes"] = os.path.getsize(self.path("in.safetensors"))
        self.row["answer_bytes"] = 4 * ANSWER_CHANNELS * (self.size if self.side == "outputs" else 1)

    def process(self, budget, times):
        """(forward seconds, peak bytes) of one process."""
        command = [self.options.program, "forward", "--engine", self.options.engine, "--model", self.path("model"),
                   "--inputs", self.path("in.safetensors"), "--outputs", self.path("out.safetensors"), "--threads",
                   str(self.options.threads), "--stats", self.path("stats.json"), "--quiet", "--repeat", str(times)]
        bound = ["--memory-budget", budget] if budget else []
        _, peak = columns.measured_process([*command, *bound], self.options.threads, self.path("log"),
                                           "perceiver forward")
        with open(self.path("stats.json"), encoding="utf-8") as file:
            return json.load(file)["forward_seconds"], peak

    def start(self):
        """Memory: the peak of a process that makes one forward."""
        for key, budget in self.ways():
            try:
                _, self.row[f"{key}_peak"] = self.process(budget, 1)
            except columns.Skip as reason:
                self.row[f"{key}_problem"] = str(reason)
                print(f"  {self.side} {self.size:,} {key}: {reason}", file=sys.stderr)

    def turn(self):
        """Time: the median of all forwards so far but the first of a process, which maps the file. A process
        makes as many as take some seconds."""
        times = max(2, min(100, 8 * 10**6 // self.size))
        for key, budget in self.ways():
            if f"{key}_peak" in self.row:
                seconds, _ = self.process(budget, times)
                self.seconds.setdefault(key, []).extend(seconds[1:])
                self.row[f"{key}_seconds"] = statistics.median(self.seconds[key])

    def ways(self):
        return ("free", ""), ("bounded", self.options.budget)

    def clean(self):
        for leaf in ("in.safetensors", "out.safetensors"):
            if os.path.exists(self.path(leaf)):
                os.remove(self.path(leaf))


def measure(side, options):
    """Rows of all sizes, which take turns: what slows the machine for a while then slows them all."""
    points = [Point(side, size, options) for size in SIDES if size <= options.largest]
    try:
        for point in points:
            point.prepare()
            point.start()
        for turn in range(options.rounds):
            for visit in range(VISITS):
                for point in points:
                    if visit == 0 or point.size <= OFTEN:
                        point.turn()
            print(f"{side}: turn {turn + 1} of {options.rounds}", flush=True)
    finally:
        for point in points:
            point.clean()
    for point in points:
        print(words(point.row), flush=True)
    return [point.row for point in points]


def words(row):
    parts = [f"{row['side']} {row['size']:>10,}"]
    for key in ("free", "bounded"):
        if f"{key}_seconds" in row:
            parts.append(f"{key} {row[f'{key}_seconds']:.4g} s {row[f'{key}_peak'] / MIB:,.0f} MiB")
    return ", ".join(parts)


def each(rows, key):
    """[(size, seconds for one more)]: beyond the smallest size, whose time is that of the latents."""
    timed = [(r["size"], r[f"{key}_seconds"]) for r in rows if f"{key}_seconds" in r]
    return [(size, (seconds - timed[0][1]) / (size - timed[0][0])) for size, seconds in timed[1:]]


def checks(rows, side):
    """(what, reached, whether it holds)."""
    own = [r for r in rows if r["side"] == side]
    found = []
    for key in ("free", "bounded"):
        costs = each(own, key)
        if len(costs) >= 2:
            values = [cost for _, cost in costs]
            change = max(values) / min(values) - 1
            found.append((f"{side}, {key}: time for one more, {costs[0][0]:,} to {costs[-1][0]:,}",
                          f"{min(values) * 1e6:.3f} to {max(values) * 1e6:.3f} microseconds, {change:+.1%}",
                          change <= TIME_BAND))
        held = [r for r in own if f"{key}_peak" in r]
        if len(held) >= 2:
            # free, the whole input file is mapped; the answers are there as a whole either way
            net = [r[f"{key}_peak"] - r["answer_bytes"] - (r["input_bytes"] if key == "free" else 0) for r in held]
            change = max(net) / net[0] - 1
            above = "input and answers" if key == "free" else "the answers"
            found.append((f"{side}, {key}: peak memory above {above}, {held[0]['size']:,} to {held[-1]['size']:,}",
                          f"{change:+.1%}", change <= MEMORY_BAND))
    return found


def draw(rows, budget, path):
    import matplotlib

    matplotlib.use("Agg")
    # the same numbers give the same file; text stays text
    matplotlib.rcParams.update({"svg.hashsalt": "perceiver", "svg.fonttype": "none"})
    import matplotlib.pyplot as plot

    figure, axes = plot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for side, colour in (("inputs", "tab:blue"), ("outputs", "tab:orange")):
        for key, style, label in (("free", "o-", side), ("bounded", "x--", f"{side}, at most {budget}")):
            here = [r for r in rows if r["side"] == side and f"{key}_seconds" in r]
            sizes = [r["size"] for r in here]
            axes[0].loglog(sizes, [r[f"{key}_seconds"] for r in here], style, color=colour, label=label)
            axes[1].loglog(sizes, [r[f"{key}_peak"] / MIB for r in here], style, color=colour, label=label)
    reference = [r for r in rows if r["side"] == "inputs" and "free_seconds" in r]
    if reference:
        last = reference[-1]
        sizes = [10**5, last["size"]]
        axes[0].loglog(sizes, [last["free_seconds"] * s / last["size"] * 0.5 for s in sizes], color="grey",
                       linewidth=0.8, label="slope 1")
        axes[1].loglog([r["size"] for r in reference], [r["input_bytes"] / MIB for r in reference], color="grey",
                       linewidth=0.8, label="the input file")
    for axis, what in zip(axes, ("seconds", "peak resident MiB")):
        axis.set_xlabel("tokens read or outputs asked for")
        axis.set_ylabel(what)
        axis.grid(True, which="major", linewidth=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def text(rows, found, options):
    header = ["", "number", "seconds", "peak MiB", f"seconds, at most {options.budget}", "peak MiB"]
    cell = lambda row, key, scale, form: form.format(row[key] / scale) if key in row else "-"  # noqa: E731
    table = report.table(header, [[
        r["side"], f"{r['size']:,}", cell(r, "free_seconds", 1, "{:.3g}"), cell(r, "free_peak", MIB, "{:,.0f}"),
        cell(r, "bounded_seconds", 1, "{:.3g}"), cell(r, "bounded_peak", MIB, "{:,.0f}")] for r in rows])
    judged = "\n".join(f"- {what}: {reached}, {'as wanted' if fine else '**not as wanted**'}" for what, reached, fine in found)
    about = f"Commit {options.commit}; {report.cpu()}; {options.threads} threads, engine {options.engine}."
    return f"{about}\n\n![Time and memory against size](scaling.svg)\n\n{table}\n\n{judged}"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--engine", default="runtime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", type=int, default=10**7, help="leave larger sizes out")
    parser.add_argument("--sides", nargs="*", default=["inputs", "outputs"], choices=["inputs", "outputs"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of every size")
    parser.add_argument("--budget", default="64MiB")
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench"))
    parser.add_argument("--no-page", action="store_true", help="print only")
    return parser.parse_args()


def main():
    options = parse()
    options.commit = report.commit()  # before the page is written
    rows = [row for side in options.sides for row in measure(side, options)]
    found = [check for side in options.sides for check in checks(rows, side)]
    with open(os.path.join(options.work, "scaling.json"), "w", encoding="utf-8") as file:
        json.dump({"commit": options.commit, "cpu": report.cpu(), "rows": rows}, file, indent=1)
    for what, reached, fine in found:
        print(f"{what}: {reached}: {'as wanted' if fine else 'NOT as wanted'}")
    if not options.no_page:
        docs = os.path.join(report.root(), "docs")
        draw(rows, options.budget, os.path.join(docs, "scaling.svg"))
        report.replace_section(os.path.join(docs, "performance.md"), "scaling", text(rows, found, options))
    return 0 if all(fine for _, _, fine in found) else 1


if __name__ == "__main__":
    sys.exit(main())
