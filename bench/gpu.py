"""Forwards and training steps of ours and of transformers on one GPU, the six released configurations.

    python bench/gpu.py [--program build/bin/perceiver] [--step build/bin/train_step] [--models NAME ...]
                        [--plan NAME] [--forwards K] [--steps K] [--compile NAME ...] [--no-page]

Needs a program built with a CUDA LibTorch (-DTorch_DIR=...). Random weights from `perceiver init`; float32, matrix
products in full float32 on both sides. Losses and the norm of every gradient are compared first: a time counts only
if they agree. Inputs lie on the GPU before the clock starts, and the loss is read back before it stops. Memory is the
most that tensors took, as LibTorch's allocator counts it on both sides. One line of JSON per row on stdout; also
writes build/bench/gpu.jsonl and a section of docs/performance.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from safetensors.numpy import save_file

import cases
import page
import train_step

import report

WARM = 3  # of each kind, before those that count
# fill-mask answers other rows than its peer, so their losses say nothing
CASES = [case for case in cases.CASES if not isinstance(case, cases.FillMask)]


class Row:
    """One configuration: inputs, a model folder, and both sides measured in processes of their own."""

    def __init__(self, case, options):
        self.case, self.name, self.options = case, case.name, options
        self.work = os.path.join(options.work, self.name.replace(",", "").replace(" ", "-"))
        self.model = os.path.join(options.work, "models", case.preset)
        self.chunks = case.peer_chunks
        os.makedirs(self.work, exist_ok=True)

    def path(self, leaf):
        return os.path.join(self.work, leaf)

    def prepare(self):
        cases.make_model(self.options.program, self.case.preset, self.model)
        save_file(self.case.our_inputs(), self.path("ours.safetensors"))
        save_file(self.case.peer_inputs(), self.path("theirs.safetensors"))

    def measure(self, side, steps, *how):
        worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_worker.py")
        program = [self.options.step] if side == "ours" else [sys.executable, worker]
        subprocess.run([*program, self.model, self.path(side + ".safetensors"), "2", str(steps), self.path("report.json"),
                        "cuda", str(WARM + self.options.forwards), *how], check=True)
        with open(self.path("report.json"), encoding="utf-8") as file:
            return json.load(file)

    def compare_forwards(self, ours, theirs):
        given, wanted = ours["forward_loss"], theirs["forward_loss"]
        if not abs(given - wanted) <= train_step.AGREE * abs(wanted):
            sys.exit(f"{self.name}: the forward's loss is {given:.6g}, transformers has {wanted:.6g}; no time counts")

    def run(self):
        self.prepare()
        steps = 0 if self.chunks > 1 else WARM + self.options.steps
        sides = {"ours": self.measure("ours", steps, self.options.plan), "theirs": self.measure("theirs", steps, "eager")}
        row = {"model": self.name, "plans": sides["ours"]["plans"], "chunks": self.chunks}
        if self.chunks == 1:
            row["difference"] = train_step.difference(self.name, **sides)
            self.compare_forwards(**sides)
        if self.name in self.options.compile:
            sides["compiled"] = self.measure("theirs", 0, "compile")
        for side, result in sides.items():
            for what in ("forward", "step"):
                seconds = result["forward_seconds" if what == "forward" else "seconds"][WARM:]
                if seconds:
                    scale = 1 if side == "ours" else self.chunks
                    row[f"{side}_{what}_seconds"] = statistics.median(seconds) * scale
                    row[f"{side}_{what}_peak"] = result["forward_peak" if what == "forward" else "peak"]
        return row


def cell(row, side, what):
    seconds = row.get(f"{side}_{what}_seconds")
    return f"{seconds * 1e3:,.1f}" if seconds else "-"


def faster(row, what):
    ours, theirs = row.get(f"ours_{what}_seconds"), row.get(f"theirs_{what}_seconds")
    return page.times(theirs / ours) if ours and theirs else "-"


def memory(row, side, what):
    peak = row.get(f"{side}_{what}_peak")
    return f"{peak / cases.MIB:,.0f}" if peak else "-"


def table(rows):
    header = ["milliseconds", "forward: ours", "transformers", "torch.compile", "faster than eager", "our MiB", "its MiB",
              "training step: ours", "transformers", "faster", "our MiB", "its MiB", "gradients differ by"]
    return report.table(header, [
        [row["model"], cell(row, "ours", "forward"), cell(row, "theirs", "forward"), cell(row, "compiled", "forward"),
         faster(row, "forward"), memory(row, "ours", "forward"), memory(row, "theirs", "forward"),
         cell(row, "ours", "step"), cell(row, "theirs", "step"), faster(row, "step"), memory(row, "ours", "step"),
         memory(row, "theirs", "step"), f"{row['difference']:.1e}" if "difference" in row else "-"] for row in rows])


def gpu():
    import torch
    return torch.cuda.get_device_name()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--step", default="build/bin/train_step")
    parser.add_argument("--models", nargs="*", default=names, choices=names)
    parser.add_argument("--plan", default="auto", help="of ours: auto, textbook, absorbed, factored")
    parser.add_argument("--forwards", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", nargs="*", default=[], help="rows whose forward torch.compile runs too")
    parser.add_argument("--no-page", action="store_true", help="print only")
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "bench", "gpu"))
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(Row(cases.case(name), options).run())
        print(json.dumps(rows[-1]), flush=True)
    with open(os.path.join(options.work, "..", "gpu.jsonl"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    about = f"`bench/gpu.py`; commit {report.commit()}; {gpu()}; float32; {report.versions(sys.executable)}."
    print(about + "\n\n" + table(rows))
    if not options.no_page:
        report.replace_section(os.path.join(report.root(), "docs", "performance.md"), "gpu", about + "\n\n" + table(rows))


if __name__ == "__main__":
    sys.exit(main())
