"""The six released configurations with random weights: inputs, and what transformers computes.

As a program (parity_full.py and the bench start it, so that its memory is its own):

    python tools/oracle/full_models.py spread FOLDER NEW_FOLDER SEED
    python tools/oracle/full_models.py forward FOLDER INPUTS OUTPUTS f32|f64 [THREADS]
"""

import contextlib
import math
import sys

import numpy as np

NAMES = [
    "language-perceiver", "vision-perceiver-learned", "vision-perceiver-fourier",
    "vision-perceiver-conv", "optical-flow-perceiver", "multimodal-perceiver",
]


def smooth(random, *shape):
    """A picture-like field in [0, 1]: a few waves and some noise, last two axes in space."""
    height, width = shape[-2:]
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    field = np.zeros(shape)
    for _ in range(6):
        fy, fx = random.uniform(-20, 20, 2)
        field = field + random.normal(size=shape[:-2] + (1, 1)) * np.sin(2 * np.pi * (fy * y + fx * x))
    field = field + 0.3 * random.normal(size=shape)
    return 1 / (1 + np.exp(-field))


def language_inputs(random):
    length, valid = 2048, 1500
    ids = random.integers(32, 127, (1, length)) + 6  # printable ASCII, bytes are shifted by 6
    ids[0, random.choice(valid, 200, replace=False)] = 3  # [MASK]
    ids[0, valid:] = 0
    mask = (np.arange(length) < valid)[None].astype(np.int64)
    return {"inputs": ids.astype(np.int64), "attention_mask": mask}


def image_inputs(random):
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    return {"inputs": ((smooth(random, 1, 3, 224, 224) - mean) / deviation).astype(np.float32)}


def flow_inputs(random):
    """A frame and the same moved by (2, 3), as 3 x 3 neighbourhoods, channels (row, column, colour)."""
    height, width = 368, 496
    scene = smooth(random, 3, height + 2, width + 3) * 2 - 1
    frames = np.stack([scene[:, 2:, 3:], scene[:, :-2, :-3]])
    padded = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return {"inputs": np.concatenate(windows, axis=1)[None].astype(np.float32)}


def multimodal_inputs(random, chunk=37, chunks=128):
    samples, pixels, patches = 30720, 16 * 224 * 224, 1920
    time = np.arange(samples) / 48000
    sound = sum(random.normal() * np.sin(2 * np.pi * f * time) for f in random.uniform(80, 4000, 8))
    sound = sound / np.abs(sound).max() * 0.8 + 0.01 * random.normal(size=samples)
    return {
        "inputs.image": smooth(random, 1, 16, 3, 224, 224).astype(np.float32),
        "inputs.audio": sound[None, :, None].astype(np.float32),
        "inputs.label": np.zeros((1, 700), np.float32),
        "subsampled_output_points.image": np.arange(pixels // chunks) + chunk * (pixels // chunks),
        "subsampled_output_points.audio": np.arange(patches // chunks) + chunk * (patches // chunks),
    }


def inputs(name, seed=0):
    random = np.random.default_rng(seed)
    if name.startswith("language"):
        return language_inputs(random)
    if name.startswith("vision"):
        return image_inputs(random)
    return flow_inputs(random) if name.startswith("optical") else multimodal_inputs(random)


def load_peer(folder):
    import json
    import os

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        name = json.load(file)["architectures"][0]
    return getattr(transformers, name).from_pretrained(folder).eval()


@contextlib.contextmanager
def attention_in_blocks(rows=256):
    """The peer's attention, queries taken `rows` at a time: the same sums in the same order, without
    its tokens x latents matrices, which in float64 would not fit this size of machine."""
    import torch
    from transformers.models.perceiver.modeling_perceiver import PerceiverSelfAttention

    def heads(x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    def forward(self, hidden_states, attention_mask=None, inputs=None, inputs_mask=None, output_attentions=False):
        normed = self.layernorm1(hidden_states)
        source = normed if inputs is None else self.layernorm2(inputs)
        mask = attention_mask if inputs is None else inputs_mask
        q = heads(self.query(normed), self.num_heads)
        k = heads(self.key(source), self.num_heads)
        v = heads(self.value(source), self.num_heads)
        out = torch.empty(q.shape[:3] + v.shape[3:], dtype=v.dtype)
        for begin in range(0, q.shape[2], rows):
            part = slice(begin, begin + rows)
            scores = q[:, :, part] @ k.transpose(2, 3) / math.sqrt(q.shape[3])
            if mask is not None:
                scores += mask if mask.shape[2] == 1 else mask[:, :, part]
            out[:, :, part] = scores.softmax(-1) @ v
        return (out.transpose(1, 2).flatten(2),)

    theirs = PerceiverSelfAttention.forward
    PerceiverSelfAttention.forward = forward
    try:
        yield
    finally:
        PerceiverSelfAttention.forward = theirs


def forward(folder, inputs_file, outputs_file, dtype, threads=2):
    import torch
    from safetensors.torch import load_file, save_file

    import stages

    torch.set_num_threads(threads)
    tensors = load_file(inputs_file)
    model = load_peer(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if dtype == "f64":
            model.double()
            stack.enter_context(stages.exact_tables())
            stack.enter_context(attention_in_blocks())
        call = stages.arguments(tensors, next(model.parameters()).dtype)
        logits = model(**call).logits
    logits = {f"logits.{k}": v for k, v in logits.items()} if isinstance(logits, dict) else {"logits": logits}
    save_file({name: value.contiguous() for name, value in logits.items()}, outputs_file)


def spread(folder, new_folder, seed):
    """The same model with weights drawn so that every bias and scale matters."""
    import stages

    model = load_peer(folder)
    stages.spread_weights(model, seed)
    model.save_pretrained(new_folder)


if __name__ == "__main__":
    if sys.argv[1] == "spread":
        spread(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1] == "forward":
        forward(*sys.argv[2:6], *map(int, sys.argv[6:]))
    else:
        sys.exit(__doc__)
