"""Ten optimiser steps of PyTorch on every class of transformers' Perceivers and on an original Perceiver.

    python tools/oracle/training.py [OUT_DIR]

OUT_DIR is $PERCEIVER_BINARY_DIR/oracle/training when absent, with build/ for the variable. Writes
OUT_DIR/<case>/ with
  start/, f32/, f64/   model folders: as training starts, and after it in float32 and float64
  io.safetensors       in.<batch>.<argument>, target.<batch>.<output>, mask.<batch> (places a text model
                       is asked for); f32.losses, f64.losses [10]
and OUT_DIR/optimisers.safetensors: gradients, and what LAMB (stated here in NumPy), SGD and AdamW
(PyTorch's own), gradient clipping, schedules and a weight average make of them.
The step is the one of docs/training.md: AdamW without decay of biases and norms, clipping, warm-up and
cosine. Deterministic; takes well under a minute.
"""

import json
import math
import os
import shutil
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import transformers
    from safetensors.torch import save_file

    import stages
    from transformers_small import Draw, clip, config, multimodal_settings, text
except ImportError as missing:
    print(f"skipped: {missing}; pip install torch transformers safetensors", file=sys.stderr)
    sys.exit(77)

STEPS, BATCHES, WARMUP = 10, 2, 2
RATE, BETAS, DECAY, CLIP = 2e-3, (0.9, 0.98), 0.05, 1.0
# Large: below it a gradient that is nothing but rounding would still move its weight by a whole step.
EPSILON = 1e-4
SMOOTHING = 0.1

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def cross_entropy(logits, batch):
    return F.cross_entropy(logits, batch["target"]["logits"], label_smoothing=SMOOTHING)


def masked_cross_entropy(logits, batch):
    mask = batch["mask"]
    return F.cross_entropy(logits[mask], batch["target"]["logits"][mask])


def end_point_error(logits, batch):
    return (logits - batch["target"]["logits"]).square().sum(-1).sqrt().mean()


def weighted(logits, batch):
    target = batch["target"]
    return (F.l1_loss(logits["audio"], target["audio"]) + 0.5 * F.mse_loss(logits["image"], target["image"])
            + 0.1 * F.cross_entropy(logits["label"], target["label"]))


def classifier(draw, model, *shape):
    batches = [{"in": {"inputs": draw.normal(*shape)},
                "target": {"logits": draw.integers(0, 7, shape[0])}} for _ in range(BATCHES)]
    return model, batches, cross_entropy


@case
def language(draw):
    settings = config(qk_channels=8, v_channels=24, num_cross_attention_heads=2, max_position_embeddings=24,
                      attention_probs_dropout_prob=0.0)
    batches = [{"in": text(draw, 3, 24, [24, 20, 24]), "target": {"logits": draw.integers(6, 262, 3, 24)},
                "mask": draw.uniform(3, 24) < 0.3} for _ in range(BATCHES)]
    return transformers.PerceiverForMaskedLM(settings), batches, masked_cross_entropy


@case
def sequence_classification(draw):
    settings = config(d_latents=16, d_model=12, num_cross_attention_heads=2, num_labels=7,
                      max_position_embeddings=24, attention_probs_dropout_prob=0.0)
    batches = [{"in": text(draw, 3, 24, [24, 7, 11]), "target": {"logits": draw.integers(0, 7, 3)}}
               for _ in range(BATCHES)]
    return transformers.PerceiverForSequenceClassification(settings), batches, cross_entropy


@case
def vision_learned(draw):
    settings = config(image_size=6, num_labels=7, d_model=512, attention_probs_dropout_prob=0.0)
    return classifier(draw, transformers.PerceiverForImageClassificationLearned(settings), 3, 3, 6, 6)


@case
def vision_fourier(draw):
    settings = config(num_labels=7, d_model=261, attention_probs_dropout_prob=0.0)
    return classifier(draw, transformers.PerceiverForImageClassificationFourier(settings), 3, 3, 7, 6)


@case
def vision_conv(draw):
    settings = config(num_labels=7, d_model=322, attention_probs_dropout_prob=0.0)
    return classifier(draw, transformers.PerceiverForImageClassificationConvProcessing(settings), 3, 3, 32, 28)


@case
def optical_flow(draw):
    settings = config(train_size=[5, 7], d_model=322, num_self_attention_heads=8,
                      attention_probs_dropout_prob=0.0)
    batches = [{"in": {"inputs": draw.normal(2, 2, 27, 5, 7)}, "target": {"logits": draw.normal(2, 5, 7, 2)}}
               for _ in range(BATCHES)]
    return transformers.PerceiverForOpticalFlow(settings), batches, end_point_error


@case
def multimodal(draw):
    settings = multimodal_settings(attention_probs_dropout_prob=0.0)
    batches = [{"in": clip(draw, 2, [3, 4, 5], list(range(96, 120))),
                "target": {"audio": draw.normal(2, 12), "image": draw.normal(2, 24, 3),
                           "label": draw.integers(0, 7, 2)}} for _ in range(BATCHES)]
    return transformers.PerceiverForMultimodalAutoencoding(settings), batches, weighted


class OriginalPerceiver(torch.nn.Module):
    """arXiv 2103.03206 in plain PyTorch: inputs read three times, the last two reads with one set of
    weights, one shared block; Fourier positions; mean over the latents and one linear map. Parameters
    carry the names of our own files."""

    SPEC = {
        "name": "original",
        "inputs": [{"name": "image", "kind": "grid", "index_dims": [6, 5], "channels": 3,
                    "position": {"kind": "fourier", "num_bands": 3, "max_resolution": [6, 5]}}],
        "encoder": {"num_latents": 8, "latent_channels": 24, "self_attend": {"num_heads": 4},
                    "num_blocks": 3, "num_self_attends_per_block": 2, "num_cross_attends": 3},
        "decoder": {"kind": "projection", "output_channels": 7},
        "outputs": [{"name": "logits", "query": "learned", "index_dims": [1], "single_row": True}]}

    def __init__(self):
        super().__init__()
        self.named, latents, tokens = {}, 24, 3 + 2 * (2 * 3 + 1)
        self.add("latents", 8, latents)
        for k in range(2):
            self.add_attention(f"encoder.cross_attend.{k}", latents, tokens, tokens)
        for layer in range(2):
            self.add_attention(f"encoder.block.0.{layer}", latents, latents, latents)
        self.add_linear("decoder.final", latents, 7)

    def add(self, name, *shape):
        self.named[name] = torch.nn.Parameter(torch.empty(shape))
        self.register_parameter(name.replace(".", "__"), self.named[name])

    def add_linear(self, name, width, out):
        self.add(f"{name}.weight", out, width)
        self.add(f"{name}.bias", out)

    def add_attention(self, name, queries, inputs, width):
        norms = {"norm_queries": queries, "norm_mlp": queries}
        if "cross" in name:
            norms["norm_inputs"] = inputs
        for norm, channels in norms.items():
            self.add(f"{name}.{norm}.weight", channels)
            self.add(f"{name}.{norm}.bias", channels)
        self.add_linear(f"{name}.query", queries, width)
        self.add_linear(f"{name}.key", inputs, width)
        self.add_linear(f"{name}.value", inputs, width)
        self.add_linear(f"{name}.output", width, queries)
        self.add_linear(f"{name}.mlp_in", queries, queries)
        self.add_linear(f"{name}.mlp_out", queries, queries)

    def linear(self, name, x):
        return F.linear(x, self.named[f"{name}.weight"], self.named[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.named[f"{name}.weight"], self.named[f"{name}.bias"], 1e-5)

    def attend(self, name, latents, inputs, heads):
        asking = self.norm(f"{name}.norm_queries", latents)
        asked = asking if inputs is None else self.norm(f"{name}.norm_inputs", inputs)
        q, k, v = (self.linear(f"{name}.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
                   for part, x in (("query", asking), ("key", asked), ("value", asked)))
        weights = (q @ k.transpose(2, 3) / q.shape[-1]**0.5).softmax(-1)
        x = latents + self.linear(f"{name}.output", (weights @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(self.linear(f"{name}.mlp_in", self.norm(f"{name}.norm_mlp", x)))
        return x + self.linear(f"{name}.mlp_out", hidden)

    def positions(self, extents, dtype):
        axes = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=dtype) for n in extents), indexing="ij")
        place = torch.stack(axes, -1).flatten(0, 1)
        bands = torch.stack([torch.linspace(1, n / 2, 3, dtype=dtype) for n in extents])
        angles = (math.pi * place[:, :, None] * bands).flatten(1)
        return torch.cat([place, angles.sin(), angles.cos()], 1)

    def forward(self, inputs):
        positions = self.positions(inputs.shape[1:3], inputs.dtype)
        tokens = torch.cat([inputs.flatten(1, 2), positions.expand(len(inputs), -1, -1)], 2)
        latents = self.named["latents"].expand(len(inputs), -1, -1)
        for k in (0, 1, 1):
            latents = self.attend(f"encoder.cross_attend.{k}", latents, tokens, 1)
            for layer in range(2):
                latents = self.attend(f"encoder.block.0.{layer}", latents, None, 4)
        return self.linear("decoder.final", latents.mean(1))

    def save_pretrained(self, folder):
        os.makedirs(folder)
        with open(os.path.join(folder, "spec.json"), "w") as file:
            json.dump(self.SPEC, file)
        save_file({name: tensor.detach().clone() for name, tensor in self.named.items()},
                  os.path.join(folder, "model.safetensors"))


@case
def original(draw):
    model, batches, loss = classifier(draw, OriginalPerceiver(), 3, 6, 5, 3)
    return model, batches, loss


def schedule(step):
    """Warm-up, then half a cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def decays(name):
    return not name.endswith("bias") and "norm" not in name.rsplit(".", 1)[0].replace("__", ".")


def train(model, batches, loss_of, dtype):
    """Ten steps in place. Returns the losses."""
    model.to(dtype).train()
    named = list(model.named_parameters())
    plain = [parameter for name, parameter in named if not decays(name)]
    decayed = [parameter for name, parameter in named if decays(name)]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY},
                                   {"params": plain, "weight_decay": 0.0}],
                                  lr=RATE, betas=BETAS, eps=EPSILON)
    losses = []
    for step in range(STEPS):
        batch = batches[step % BATCHES]
        call = stages.arguments(batch["in"], dtype)
        result = model(**call)
        logits = result if isinstance(result, torch.Tensor) else result.logits
        target = {name: value.to(dtype) if value.is_floating_point() else value
                  for name, value in batch["target"].items()}
        loss = loss_of(logits, {**batch, "target": target})
        optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for _, p in named if p.grad is not None]
        norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        for _, parameter in named:
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None  # took no part: a mask token of a modality that is never masked
            elif parameter.grad is not None and norm > CLIP:
                parameter.grad *= CLIP / norm
        for group in optimiser.param_groups:
            group["lr"] = RATE * schedule(step)
        optimiser.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def write_case(folder, seed, make):
    torch.manual_seed(seed)
    model, batches, loss_of = make(Draw(seed))
    stages.spread_weights(model, seed)
    model.save_pretrained(os.path.join(folder, "start"))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {}
    tensors["f32.losses"] = train(model, batches, loss_of, torch.float32)
    model.save_pretrained(os.path.join(folder, "f32"))
    model.double().load_state_dict(start)
    with stages.exact_tables():
        tensors["f64.losses"] = train(model, batches, loss_of, torch.float64)
    model.save_pretrained(os.path.join(folder, "f64"))
    for index, batch in enumerate(batches):
        for prefix, values in (("in", batch["in"]), ("target", batch["target"])):
            for name, value in values.items():
                tensors[f"{prefix}.{index}.{name}"] = value
        if "mask" in batch:
            tensors[f"mask.{index}"] = batch["mask"]
    save_file({name: value.contiguous().clone() for name, value in tensors.items()},
              os.path.join(folder, "io.safetensors"))


def lamb(start, gradients, rates, decay, epsilon=1e-6, betas=(0.9, 0.99)):
    """LAMB (arXiv 1904.00962, algorithm 2, phi the identity) in float64."""
    x = start.copy()
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, (g, rate) in enumerate(zip(gradients, rates), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        r = (m / (1 - betas[0]**t)) / (np.sqrt(v / (1 - betas[1]**t)) + epsilon) + decay * x
        x_norm, r_norm = np.linalg.norm(x), np.linalg.norm(r)
        x = x - rate * (x_norm / r_norm if x_norm > 0 and r_norm > 0 else 1.0) * r
    return x


def of_torch(kind, start, gradients, rates, **options):
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser = kind([parameter], lr=1.0, **options)
    for gradient, rate in zip(gradients, rates):
        optimiser.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient.copy())
        optimiser.step()
    return parameter.detach().numpy()


def average(values, decay):
    """d = min(decay, (1 + t) / (10 + t)) after step t, from the first value on."""
    mean = values[0].copy()
    for t, value in enumerate(values[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * value
    return mean


def write_optimisers(path):
    random = np.random.default_rng(5)
    start = random.normal(size=(7, 5))
    gradients = random.normal(size=(STEPS, 7, 5)) * np.linspace(0.1, 2, STEPS)[:, None, None]
    rates = np.array([0.05 * schedule(step) for step in range(STEPS)])
    norms = np.linalg.norm(gradients.reshape(STEPS, -1), axis=1)
    arrays = {
        "start": start, "gradients": gradients, "rates": rates, "norms": norms,
        "clipped": gradients * np.minimum(1, 3 / norms)[:, None, None],
        "lamb": lamb(start, gradients, rates, decay=0.1),
        "lamb.zero": lamb(np.zeros_like(start), gradients, rates, decay=0.1),
        "adamw": of_torch(torch.optim.AdamW, start, gradients, rates, weight_decay=0.1, betas=(0.9, 0.99),
                          eps=1e-6),
        "sgd": of_torch(torch.optim.SGD, start, gradients, rates, weight_decay=0.1, momentum=0.8),
        "nesterov": of_torch(torch.optim.SGD, start, gradients, rates, weight_decay=0.1, momentum=0.8,
                             nesterov=True),
        "average": average(list(gradients), decay=0.5),
    }
    save_file({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}, path)


def main(out):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    out = os.path.abspath(out)
    working = out + ".partial"  # readers never see half an oracle
    shutil.rmtree(working, ignore_errors=True)
    os.makedirs(working)
    write_optimisers(os.path.join(working, "optimisers.safetensors"))
    for seed, (name, make) in enumerate(CASES.items(), start=101):
        write_case(os.path.join(working, name), seed, make)
        print(name)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(working, out)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    default = os.path.join(os.environ.get("PERCEIVER_BINARY_DIR", "build"), "oracle", "training")
    main(sys.argv[1] if len(sys.argv) == 2 else default)
