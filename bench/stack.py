"""The stack of self-attention over the latents by itself: which share of the matrix-product peak it reaches.

Two models that differ in depth alone, the latents those of a released configuration: what the deeper one takes
longer is its additional layers, free of reading, asking and loading.
"""

import json
import os
import subprocess

import numpy as np
from safetensors.numpy import save_file

import columns

PRESETS = ["language-perceiver", "vision-perceiver-fourier", "optical-flow-perceiver", "multimodal-perceiver"]
LAYERS, SHALLOW, DEEP = 4, 1, 4  # self-attends of a block, blocks
WANTED = 0.8


def spec(encoder, blocks):
    keys = ("num_latents", "latent_channels", "self_attend")
    return {
        "name": "stack",
        "inputs": [{"name": "x", "kind": "grid", "index_dims": [64], "channels": 32}],
        "encoder": {**{key: encoder[key] for key in keys if key in encoder}, "num_blocks": blocks,
                    "num_self_attends_per_block": LAYERS},
        "decoder": {"output_channels": 4},
        "outputs": [{"name": "y", "query": "learned", "index_dims": [1], "channels": 64}],
    }


def ask(program, *arguments):
    return json.loads(subprocess.run([program, *arguments, "--json"], check=True, capture_output=True, text=True).stdout)


class Depth:
    """A model of one depth."""

    def __init__(self, preset, blocks, engine, options):
        work = os.path.join(options.work, "stack", f"{preset}-{blocks}")
        os.makedirs(work, exist_ok=True)
        self.model = os.path.join(work, "model")
        inputs = os.path.join(work, "in.safetensors")
        encoder = ask(options.program, "info", "--preset", preset)["spec"]["encoder"]
        with open(os.path.join(work, "spec.json"), "w", encoding="utf-8") as file:
            json.dump(spec(encoder, blocks), file)
        ask(options.program, "init", "--spec", file.name, "--seed", "1", self.model)
        save_file({"inputs.x": np.random.default_rng(0).normal(size=(1, 64, 32)).astype(np.float32)}, inputs)
        stages = ask(options.program, "info", "--model", self.model)["stages"]
        self.flops = next(stage["flops"] for stage in stages if stage["stage"] == "process")
        self.column = columns.Ours(engine, options, work, self.model, inputs)


def measure_one(preset, engine, options, rounds=4):
    """The fastest forward of each depth, as the peak is the fastest product."""
    shallow, deep = (Depth(preset, blocks, engine, options) for blocks in (SHALLOW, DEEP))
    peaks = []
    for _ in range(rounds):
        for depth in (shallow, deep):
            peak = ["--gemm-peak"]
            depth.column.process(5, *peak)
            depth.column.seconds += depth.column.stats["forward_seconds"][1:]
            peaks.append(depth.column.stats["gemm_peak_flops"])
    seconds = min(deep.column.seconds) - min(shallow.column.seconds)
    layers = LAYERS * (DEEP - SHALLOW)
    rate = (deep.flops - shallow.flops) / seconds
    return {"preset": preset, "engine": engine, "layers": layers, "seconds_per_layer": seconds / layers,
            "flops_per_second": rate, "gemm_peak_flops": max(peaks), "share": rate / max(peaks)}


def measure(options):
    engine = options.ours[0]
    results = []
    for preset in PRESETS:
        try:
            results.append(measure_one(preset, engine, options))
        except columns.Skip as reason:
            print(f"  stack of {preset}: {reason}")
            continue
        r = results[-1]
        print(f"stack of {preset}: {r['seconds_per_layer'] * 1e3:.1f} ms a layer, {r['flops_per_second'] / 1e9:.0f} GFLOP/s, "
              f"{r['share']:.0%} of the {r['gemm_peak_flops'] / 1e9:.0f} measured", flush=True)
    return results
