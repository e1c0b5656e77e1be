"""transformers in a process of its own, kept alive: one JSON request per line on stdin, an answer per line on stdout.

    python bench/peer_worker.py KIND FOLDER THREADS INPUTS          # a loop
    python bench/peer_worker.py KIND FOLDER THREADS INPUTS OUTPUTS  # one forward, for its peak memory

KIND is eager, compile (torch.compile, inductor) or openvino (converted from the PyTorch model). First line of
a loop: {"prepare_seconds": until the first answer, loading apart}. Request {"inputs": FILE, "outputs": FILE or
null} -> {"seconds": of the forward alone}. A failure is one line {"error": TEXT}.
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "oracle"))
import full_models  # noqa: E402
import stages  # noqa: E402


def logits_of(model, tensors):
    """{"logits": ...} or {"logits.<output>": ...}."""
    logits = model(**stages.arguments(tensors, torch.float32)).logits
    return {f"logits.{k}": v for k, v in logits.items()} if isinstance(logits, dict) else {"logits": logits}


class Eager:
    def __init__(self, model, tensors, threads):
        self.model = model

    def __call__(self, tensors):
        return logits_of(self.model, tensors)


class Compiled(Eager):
    def __init__(self, model, tensors, threads):
        self.model = torch.compile(model)


class OpenVino:
    """float32 asked for: on some CPUs its default is bfloat16."""

    def __init__(self, model, tensors, threads):
        import openvino

        names = list(tensors)
        answers = []

        class Flat(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, *values):
                logits = logits_of(self.model, dict(zip(names, values)))
                answers[:] = logits
                return tuple(logits.values())

        with torch.no_grad():
            graph = openvino.convert_model(Flat().eval(), example_input=tuple(tensors.values()))
        self.compiled = openvino.Core().compile_model(
            graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32",
                           "PERFORMANCE_HINT": "LATENCY"})
        if len(self.compiled.inputs) != len(names):
            raise ValueError(f"of {len(names)} inputs, {len(self.compiled.inputs)} are left in the converted graph")
        self.names = names
        self.answers = list(answers)

    def __call__(self, tensors):
        result = self.compiled([tensors[name].numpy() for name in self.names])
        return {name: torch.from_numpy(result[i]) for i, name in enumerate(self.answers)}


KINDS = {"eager": Eager, "compile": Compiled, "openvino": OpenVino}


def answer(run, inputs, outputs):
    tensors = load_file(inputs)
    with torch.inference_mode():
        start = time.perf_counter()
        logits = run(tensors)
        seconds = time.perf_counter() - start
    if outputs:
        save_file({name: value.clone().contiguous() for name, value in logits.items()}, outputs)
    return {"seconds": seconds}


def main():
    kind, folder, threads, inputs = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    # Libraries print to stdout; what the parent reads is kept apart from it.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    model = full_models.load_peer(folder)
    outputs = sys.argv[5] if len(sys.argv) > 5 else None
    start = time.perf_counter()
    try:
        run = KINDS[kind](model, load_file(inputs), threads)
        answer(run, inputs, outputs)
    except Exception as error:  # whatever a compiler throws is the reason its column is empty
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        print(json.dumps({"error": f"{type(error).__name__}: {lines[0][:200]}"}), file=channel)
        sys.exit(1)
    if outputs:
        return
    print(json.dumps({"prepare_seconds": time.perf_counter() - start}), file=channel)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(run, request["inputs"], request["outputs"])), file=channel)


if __name__ == "__main__":
    main()
