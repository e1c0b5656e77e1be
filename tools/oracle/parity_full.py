"""`make parity`: the six released configurations, ours against transformers, judged by float64.

    python tools/oracle/parity_full.py --program build/bin/perceiver [--models NAME ...]

For each: `perceiver init` writes the model, its weights are spread so that every bias matters, both
programs run the same input in float32, transformers also in float64 with exact Fourier tables (its
attention then in blocks of queries). Our largest error may be at most twice transformers' own.
Writes the table into docs/parity.md. Needs about 14 GiB of memory and 20 minutes on two cores.
"""

import argparse
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import full_models
import report

BAR = 2.0


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def run_model(name, options, work):
    os.makedirs(work, exist_ok=True)
    path = lambda leaf: os.path.join(work, leaf)  # noqa: E731
    peer = [sys.executable, os.path.join(os.path.dirname(__file__), "full_models.py")]
    run(options.program, "init", "--preset", name, "--seed", options.seed, path("init"))
    run(*peer, "spread", path("init"), path("model"), options.seed)
    save_file(full_models.inputs(name, options.seed), path("in.safetensors"))
    run(options.program, "forward", "--model", path("model"), "--inputs", path("in.safetensors"),
        "--outputs", path("ours.safetensors"), "--threads", options.threads)
    for dtype in ("f32", "f64"):
        run(*peer, "forward", path("model"), path("in.safetensors"), path(dtype + ".safetensors"), dtype,
            options.threads)
    return [load_file(path(leaf + ".safetensors")) for leaf in ("ours", "f32", "f64")]


def judge(name, ours, single, double):
    """One row per output; the last column says whether ours is within the bar."""
    rows = []
    for output, exact in sorted(double.items()):
        mine = ours[output]
        if mine.shape != exact.shape:
            sys.exit(f"{name}: {output} is {mine.shape}, transformers gives {exact.shape}")
        scale = np.abs(exact).max()
        my_error, their_error = (np.abs(x - exact).max() / scale for x in (mine, single[output]))
        apart = np.abs(mine - single[output]).max() / scale
        fine = bool(scale > 0 and my_error <= BAR * their_error)
        label = output.removeprefix("logits").lstrip(".")
        rows.append([f"{name}{' / ' + label if label else ''}", "x".join(map(str, exact.shape)), f"{scale:.3g}",
                     f"{their_error:.2e}", f"{my_error:.2e}", f"{my_error / their_error:.2f}", f"{apart:.2e}",
                     "yes" if fine else "**no**"])
        print("  ".join(rows[-1]), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", default="build/bin/perceiver")
    parser.add_argument("--models", nargs="*", default=full_models.NAMES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=os.path.join(report.root(), "build", "parity"))
    parser.add_argument("--no-page", action="store_true", help="print only, leave docs/parity.md alone")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows += judge(name, *run_model(name, options, os.path.join(options.work, name)))
    header = ["model / output", "shape", "max abs", "transformers float32 error", "our float32 error", "ratio",
              "ours - theirs", f"at most {BAR:g}x"]
    text = (f"{report.versions(sys.executable)}; commit {report.commit()}; {report.cpu()}; seed {options.seed}.\n\n"
            + report.table(header, rows))
    if not options.no_page:
        report.replace_section(os.path.join(report.root(), "docs", "parity.md"), "parity", text)
    return 0 if all(row[-1] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
