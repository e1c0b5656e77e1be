"""One training step of transformers, eager: forward, mean square of the outputs, backward.

    python bench/train_worker.py FOLDER INPUTS THREADS STEPS REPORT     # see train_step.cpp for the report
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "oracle"))
import full_models  # noqa: E402
import stages  # noqa: E402


def step(model, tensors):
    model.zero_grad(set_to_none=True)
    logits = model(**stages.arguments(tensors, torch.float32)).logits
    outputs = logits.values() if isinstance(logits, dict) else [logits]
    loss = sum(output.square().mean() for output in outputs)
    loss.backward()
    return loss.item()


def main():
    folder, inputs, threads, steps, report = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = full_models.load_peer(folder)  # in evaluation mode: no dropout, gradients all the same
    tensors = load_file(inputs)
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        loss = step(model, tensors)
        seconds.append(time.perf_counter() - start)
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "loss": loss, "gradient_norms": norms}, file)


if __name__ == "__main__":
    main()
