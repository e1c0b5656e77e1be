"""transformers, eager, kept alive: one JSON request per line on stdin, one answer per line on stdout.

    python bench/peer_worker.py FOLDER THREADS            # a loop
    python bench/peer_worker.py FOLDER THREADS IN OUT     # one forward, for its peak memory

Request {"inputs": FILE, "outputs": FILE or null} -> {"seconds": of model.forward alone}.
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


def answer(model, inputs, outputs):
    call = stages.arguments(load_file(inputs), torch.float32)
    with torch.inference_mode():
        start = time.perf_counter()
        logits = model(**call).logits
        seconds = time.perf_counter() - start
    if outputs:
        named = {f"logits.{k}": v for k, v in logits.items()} if isinstance(logits, dict) else {"logits": logits}
        save_file({name: value.contiguous() for name, value in named.items()}, outputs)
    return {"seconds": seconds}


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    model = full_models.load_peer(folder)
    if len(sys.argv) == 5:
        answer(model, sys.argv[3], sys.argv[4])
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(model, request["inputs"], request["outputs"])), flush=True)


if __name__ == "__main__":
    main()
