#!/usr/bin/env python3
"""Prints the table of docs/many-machines.md: how much of N machines' work a training step keeps.

  tools/scaling_model.py [--flops 1e12] [--latency 50e-6] [--batch 512]

A step of one machine takes three forwards' work (one forward, two backward). Gradients travel round
a ring in buckets while the backward pass runs; the last bucket has nothing to hide behind.
"""

import argparse

# parameters, operations of one example's forward in the planned order (`perceiver info`)
MODELS = {
    "language-perceiver": (201.1e6, 119e9),
    "vision-perceiver-fourier": (48.4e6, 366e9),
    "optical-flow-perceiver": (41.1e6, 832e9),
}
MACHINES = (8, 32, 128, 512)
NETWORKS = (10e9, 25e9, 100e9)  # bits per second
BYTES = 4                       # of a gradient


def bucket_bytes(machines):
    """GradientSums::bucket_bytes_of."""
    return max(4 << 20, (128 << 10) * machines)


def ring_seconds(size, machines, bits_per_second, latency):
    """One sum of `size` bytes: each machine sends and receives 2 (n - 1) parts of size / n."""
    steps = 2 * (machines - 1)
    return steps * (latency + size / machines * 8 / bits_per_second)


def efficiency(model, machines, bits_per_second, options):
    parameters, forward = MODELS[model]
    size = parameters * BYTES
    per_machine = options.batch / machines
    compute = 3 * forward * per_machine / options.flops
    bucket = min(size, bucket_bytes(machines))
    one = ring_seconds(bucket, machines, bits_per_second, options.latency)
    travelling = size / bucket * one
    step = compute / 3 + max(compute * 2 / 3, travelling - one) + one
    return compute / step


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops", type=float, default=1e12, help="sustained, of one machine")
    parser.add_argument("--latency", type=float, default=50e-6, help="seconds of one small message")
    parser.add_argument("--batch", type=int, default=512, help="examples of a step, all machines")
    options = parser.parse_args()
    print("| model | sent per machine and step | network | "
          + " | ".join(f"{n} machines" for n in MACHINES) + " |")
    print("|---|---|---|" + "---|" * len(MACHINES))
    for model, (parameters, _) in MODELS.items():
        for bits in NETWORKS:
            cells = [f"{100 * efficiency(model, n, bits, options):.0f} %" for n in MACHINES]
            print(f"| `{model}` | {2 * parameters * BYTES / 1e9:.2f} GB | {bits / 1e9:.0f} Gbit/s | "
                  + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
