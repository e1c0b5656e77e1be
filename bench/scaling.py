"""`make bench-scaling`: time and peak memory against the number of inputs read and of outputs asked for.

    python bench/scaling.py --program build/bin/perceiver [--largest N] [--engine NAME] [--budget SIZE] [--no-page]

Models of one width whose grid grows: 64 content channels with Fourier positions of two axes are read into 256
latents; or 1,000 tokens are read and a grid of Fourier queries is answered. 10^3 to 10^7 tokens or outputs, with
and without a bound on working memory (the largest input, 2.4 GiB, is larger than the bound; under one, parts of the
input file that have been read are let go). Peak memory is the largest resident size of the process, mapped parts of
the input file and the answers included.

Wanted: time per token (or output) at the largest sizes within 15 % of each other, peak memory under the bound
within 10 % from the first size that fills it, answers apart. Writes build/bench/scaling.json and, unless told not
to, docs/scaling.svg and its section of docs/performance.md.
"""

import argparse
import json
import math
import os
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
ROW_BYTES = 4 * CONTENT  # of a token, and about that of a query
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
        small = list(SIDES[10**3])
        self.grid = list(SIDES[size])
        self.spec = spec(self.grid, [1, 1]) if side == "inputs" else spec(small, self.grid)

    def path(self, leaf):
        return os.path.join(self.work, leaf)

    def prepare(self):
        with open(self.path("spec.json"), "w", encoding="utf-8") as file:
            json.dump(self.spec, file)
        subprocess.run([self.options.program, "init", "--spec", file.name, "--seed", "1", "--quiet",
                        self.path("model")], check=True, stdout=subprocess.DEVNULL)
        write_inputs(self.path("in.safetensors"), self.spec["inputs"][0]["index_dims"])

    def measure(self, budget):
        """(seconds, peak bytes): the best of a few forwards; the peak is that of a process that makes one."""
        repeat = 4 if self.size >= 10**6 else 7  # as many for the sizes that are compared
        command = [self.options.program, "forward", "--engine", self.options.engine, "--model", self.path("model"),
                   "--inputs", self.path("in.safetensors"), "--outputs", self.path("out.safetensors"), "--threads",
                   str(self.options.threads), "--stats", self.path("stats.json"), "--quiet"]
        bound = ["--memory-budget", budget] if budget else []
        run = lambda times: columns.measured_process(  # noqa: E731
            [*command, *bound, "--repeat", str(times)], self.options.threads, self.path("log"), "perceiver forward")
        _, peak = run(1)
        if repeat > 1:
            run(repeat)
        with open(self.path("stats.json"), encoding="utf-8") as file:
            return min(json.load(file)["forward_seconds"]), peak

    def run(self):
        self.prepare()
        row = {"side": self.side, "size": self.size, "input_bytes": os.path.getsize(self.path("in.safetensors"))}
        row["answer_bytes"] = 4 * ANSWER_CHANNELS * (self.size if self.side == "outputs" else 1)
        for key, budget in (("free", ""), ("bounded", self.options.budget)):
            try:
                row[f"{key}_seconds"], row[f"{key}_peak"] = self.measure(budget)
            except columns.Skip as reason:
                row[f"{key}_problem"] = str(reason)
                print(f"  {self.side} {self.size:,} {key}: {reason}", file=sys.stderr)
        for leaf in ("in.safetensors", "out.safetensors"):
            if os.path.exists(self.path(leaf)):
                os.remove(self.path(leaf))
        print(words(row), flush=True)
        return row


def words(row):
    parts = [f"{row['side']} {row['size']:>10,}"]
    for key in ("free", "bounded"):
        if f"{key}_seconds" in row:
            parts.append(f"{key} {row[f'{key}_seconds']:.4g} s {row[f'{key}_peak'] / MIB:,.0f} MiB")
    return ", ".join(parts)


def slope(points):
    """Of the line through (log size, log seconds)."""
    x, y = (np.log([p[i] for p in points]) for i in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def checks(rows, side, budget_bytes):
    """(what, reached, whether it holds) for the sizes whose time is not that of the latents."""
    large = [r for r in rows if r["side"] == side and r["size"] >= 10**5]
    found = []
    for key in ("free", "bounded"):
        timed = [(r["size"], r[f"{key}_seconds"]) for r in large if f"{key}_seconds" in r]
        if len(timed) >= 2:
            each = [seconds / size for size, seconds in timed[-2:]]
            change = each[1] / each[0] - 1
            found.append((f"{side}, {key}: time for each, {timed[-2][0]:,} to {timed[-1][0]:,}",
                          f"{change:+.1%} (slope {slope(timed):.3f})", abs(change) <= TIME_BAND))
    filled = [r for r in large if "bounded_peak" in r and ROW_BYTES * r["size"] >= 2 * budget_bytes]
    if len(filled) >= 2:
        net = [r["bounded_peak"] - r["answer_bytes"] for r in filled]
        change = max(net) / net[0] - 1
        found.append((f"{side}, bounded: peak memory, {filled[0]['size']:,} to {filled[-1]['size']:,}",
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
    about = f"Commit {report.commit()}; {report.cpu()}; {options.threads} threads, engine {options.engine}."
    return f"{about}\n\n![Time and memory against size](scaling.svg)\n\n{table}\n\n{judged}"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--engine", default="runtime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", type=int, default=10**7, help="leave larger sizes out")
    parser.add_argument("--sides", nargs="*", default=["inputs", "outputs"], choices=["inputs", "outputs"])
    parser.add_argument("--budget", default="64MiB")
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench"))
    parser.add_argument("--no-page", action="store_true", help="print only")
    return parser.parse_args()


def main():
    options = parse()
    rows = [Point(side, size, options).run() for side in options.sides for size in SIDES if size <= options.largest]
    found = [c for side in options.sides for c in checks(rows, side, int(options.budget.removesuffix("MiB")) * MIB)]
    with open(os.path.join(options.work, "scaling.json"), "w", encoding="utf-8") as file:
        json.dump({"commit": report.commit(), "cpu": report.cpu(), "rows": rows}, file, indent=1)
    for what, reached, fine in found:
        print(f"{what}: {reached}: {'as wanted' if fine else 'NOT as wanted'}")
    if not options.no_page:
        docs = os.path.join(report.root(), "docs")
        draw(rows, options.budget, os.path.join(docs, "scaling.svg"))
        report.replace_section(os.path.join(docs, "performance.md"), "scaling", text(rows, found, options))
    return 0 if all(fine for _, _, fine in found) else 1


if __name__ == "__main__":
    sys.exit(main())
