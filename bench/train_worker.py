"""One training step of transformers, eager: forward, mean square of the outputs, backward.

    python bench/train_worker.py FOLDER INPUTS THREADS STEPS REPORT [DEVICE FORWARDS eager|compile]

The report is that of train_step.cpp. With "compile" the forwards are torch.compile's (the first of them compiles).
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


def loss_of(model, call):
    logits = model(**call).logits
    outputs = logits.values() if isinstance(logits, dict) else [logits]
    return sum(output.square().mean() for output in outputs)


def step(model, call):
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, call)
    loss.backward()
    return loss.item()


def forward(model, call):
    with torch.inference_mode():
        return loss_of(model, call).item()


def timed(count, run, *arguments):
    """Seconds of each call, and what the last one returned."""
    seconds, result = [], None
    for _ in range(count):
        start = time.perf_counter()
        result = run(*arguments)
        seconds.append(time.perf_counter() - start)
    return seconds, result


def take_peak(device):
    """Most bytes of a GPU's memory that tensors took since the last call."""
    if device == "cpu":
        return 0
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def on_device(call, device):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else
            {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value
            for name, value in call.items()}


def main():
    folder, inputs, threads, steps, report = sys.argv[1:6]
    device, forwards, how = sys.argv[6:] or ("cpu", "0", "eager")
    torch.set_num_threads(int(threads))
    model = full_models.load_peer(folder).to(device)  # in evaluation mode: no dropout, gradients all the same
    call = on_device(stages.arguments(load_file(inputs), torch.float32), device)
    result = {}
    faster = torch.compile(model) if how == "compile" else model
    result["forward_seconds"], result["forward_loss"] = timed(int(forwards), forward, faster, call)
    result["forward_peak"] = take_peak(device)
    result["seconds"], result["loss"] = timed(int(steps), step, model, call)
    result["peak"] = take_peak(device)
    result["gradient_norms"] = {name: 0.0 if p.grad is None else p.grad.norm().item()
                                for name, p in model.named_parameters()}
    with open(report, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
