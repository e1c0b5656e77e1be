"""Tiny random-weight transformers models of every Perceiver class, and what they compute.

    python tools/oracle/transformers_small.py [OUT_DIR]

OUT_DIR is $PERCEIVER_BINARY_DIR/oracle/transformers_small when absent, with build/ for the variable.
Writes OUT_DIR/<case>/ = a save_pretrained folder + io.safetensors with, for each call,
  in.<call>.<argument>       inputs, as transformers takes them
  f32.<call>.<stage>         its float32 result (stages: see stages.py)
  f64.<call>.<stage>         the same model widened to float64, Fourier tables in float64 too
The parity tests read these. Deterministic; takes well under a minute.
"""

import os
import shutil
import sys

try:
    import torch
    import transformers
    from safetensors.torch import save_file

    import stages
except ImportError as missing:
    print(f"skipped: {missing}; pip install torch transformers safetensors", file=sys.stderr)
    sys.exit(77)

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def config(**changes):
    base = dict(
        num_latents=8, d_latents=24, d_model=16, num_blocks=2, num_self_attends_per_block=2,
        num_self_attention_heads=4, num_cross_attention_heads=1, qk_channels=None, v_channels=None,
    )
    base.update(changes)
    return transformers.PerceiverConfig(**base)


class Draw:
    """Inputs from one seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape):
        return torch.rand(shape, generator=self.generator)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)


def text(draw, batch, length, lengths=None, vocab=262):
    tensors = {"inputs": draw.integers(6, vocab, batch, length)}
    if lengths is not None:
        tensors["attention_mask"] = (torch.arange(length)[None] < torch.tensor(lengths)[:, None]).long()
    return tensors


def languages(draw, length):
    holes = text(draw, 2, length)
    holes["attention_mask"] = draw.integers(0, 2, 2, length)
    return {
        "padded": text(draw, 3, length, [length, length - 5, 1]),
        "nothing_valid": text(draw, 2, length, [length, 0]),
        "holes": holes,
        "short": text(draw, 1, length - 7),
        "one_token": text(draw, 1, 1),
    }


@case
def language(draw):
    settings = config(qk_channels=8, v_channels=24, num_cross_attention_heads=2,
                      max_position_embeddings=24)
    return transformers.PerceiverForMaskedLM(settings), languages(draw, 24)


@case
def language_defaults(draw):
    """Widths from the inputs, several wide layers, other activation, one block run three times."""
    settings = config(num_cross_attention_heads=4, num_blocks=3, num_self_attends_per_block=1,
                      max_position_embeddings=19, hidden_act="gelu_new", vocab_size=40,
                      self_attention_widening_factor=3, cross_attention_widening_factor=2)
    return transformers.PerceiverForMaskedLM(settings), {
        "main": text(draw, 2, 19, [19, 11], vocab=40), "short": text(draw, 1, 6, vocab=40)}


@case
def language_query_shape(draw):
    """Widths from the latents; no residual in the encoder."""
    settings = config(num_cross_attention_heads=3, cross_attention_shape_for_attention="q",
                      max_position_embeddings=20, use_query_residual=False,
                      hidden_act="gelu_pytorch_tanh")
    return transformers.PerceiverForMaskedLM(settings), {"main": text(draw, 2, 20, [20, 4])}


@case
def language_relu(draw):
    settings = config(qk_channels=12, v_channels=24, num_cross_attention_heads=2, num_latents=5,
                      max_position_embeddings=16, hidden_act="relu")
    return transformers.PerceiverForMaskedLM(settings), {"main": text(draw, 2, 16, [16, 9])}


@case
def language_silu(draw):
    settings = config(qk_channels=12, v_channels=24, num_cross_attention_heads=2, num_latents=1,
                      max_position_embeddings=16, hidden_act="silu")
    return transformers.PerceiverForMaskedLM(settings), {"main": text(draw, 2, 16, [16, 9])}


@case
def sequence_classification(draw):
    settings = config(d_latents=16, d_model=12, num_cross_attention_heads=2, num_labels=5,
                      max_position_embeddings=24, hidden_act="gelu_new",
                      self_attention_widening_factor=3, cross_attention_widening_factor=2)
    return transformers.PerceiverForSequenceClassification(settings), {
        "main": text(draw, 2, 24, [24, 7]), "short": text(draw, 2, 9)}


@case
def sequence_classification_set_widths(draw):
    settings = config(d_latents=16, d_model=10, qk_channels=20, v_channels=16, num_labels=3,
                      num_cross_attention_heads=4, max_position_embeddings=12)
    return transformers.PerceiverForSequenceClassification(settings), {"main": text(draw, 3, 12, [12, 0, 3])}


@case
def vision_learned(draw):
    settings = config(image_size=6, num_labels=7, d_model=512)
    model = transformers.PerceiverForImageClassificationLearned(settings)
    return model, {
        "main": {"inputs": draw.normal(2, 3, 6, 6)},
        "resized_wide": {"inputs": draw.normal(1, 3, 5, 9)},
        "resized_large": {"inputs": draw.normal(1, 3, 13, 12)},
    }


@case
def vision_learned_heads(draw):
    """Several heads in both attentions of the encoder, set widths."""
    settings = config(image_size=4, num_labels=7, d_model=512, qk_channels=16, v_channels=24,
                      num_cross_attention_heads=8, num_self_attention_heads=8)
    return transformers.PerceiverForImageClassificationLearned(settings), {
        "main": {"inputs": draw.normal(1, 3, 4, 4)}}


@case
def vision_fourier(draw):
    """Width 261: one odd head; the table's bands are for 224, the pictures of any size."""
    settings = config(num_labels=7, d_model=261)
    masked = {"inputs": draw.normal(2, 3, 6, 5), "attention_mask": draw.integers(0, 2, 2, 30)}
    masked["attention_mask"][1] = 0
    return transformers.PerceiverForImageClassificationFourier(settings), {
        "main": {"inputs": draw.normal(2, 3, 9, 7)},
        "row": {"inputs": draw.normal(1, 3, 1, 8)},
        "pixel": {"inputs": draw.normal(1, 3, 1, 1)},
        "larger": {"inputs": draw.normal(1, 3, 23, 31)},
        "masked": masked,
    }


@case
def vision_fourier_heads(draw):
    settings = config(num_labels=7, d_model=261, d_latents=18, num_self_attention_heads=3,
                      num_cross_attention_heads=3, num_latents=7)
    return transformers.PerceiverForImageClassificationFourier(settings), {
        "main": {"inputs": draw.normal(1, 3, 8, 10)}}


@case
def vision_conv(draw):
    settings = config(num_labels=7, d_model=322)
    return transformers.PerceiverForImageClassificationConvProcessing(settings), {
        "main": {"inputs": draw.normal(2, 3, 32, 28)},
        "odd": {"inputs": draw.normal(1, 3, 33, 27)},
        "other": {"inputs": draw.normal(1, 3, 17, 46)},
    }


@case
def optical_flow(draw):
    settings = config(train_size=[5, 7], d_model=322, num_self_attention_heads=8)
    return transformers.PerceiverForOpticalFlow(settings), {
        "main": {"inputs": draw.normal(2, 2, 27, 5, 7)}}


def multimodal_settings(**changes):
    return config(d_model=704, d_latents=16, num_frames=4, audio_samples_per_frame=12,
                  samples_per_patch=4, image_size=3, output_shape=[1, 4, 8, 12], num_labels=7,
                  output_num_channels=16, _label_trainable_num_channels=20, **changes)


def clip(draw, batch, audio_points, image_points):
    return {
        "inputs.image": draw.uniform(batch, 4, 3, 8, 12),
        "inputs.audio": draw.uniform(batch, 48, 1) * 2 - 1,
        "inputs.label": draw.uniform(batch, 7),
        "subsampled_output_points.audio": torch.tensor(audio_points),
        "subsampled_output_points.image": torch.tensor(image_points),
    }


@case
def multimodal(draw):
    return transformers.PerceiverForMultimodalAutoencoding(multimodal_settings()), {
        "chunk": clip(draw, 1, [3, 4, 5], list(range(96, 192))),
        "points": clip(draw, 2, [11, 0, 11], [383, 5, 5, 96, 0, 201, 7]),
        "everything": clip(draw, 1, list(range(12)), list(range(384))),
    }


@case
def multimodal_wide_label(draw):
    """The label's query is the widest, so sound's is padded too; widths set."""
    settings = multimodal_settings(qk_channels=32, v_channels=16, hidden_act="gelu_new")
    settings._label_trainable_num_channels = 400
    return transformers.PerceiverForMultimodalAutoencoding(settings), {
        "points": clip(draw, 1, [1], [0, 383])}


def with_labels(tensors, calls, prefix, call):
    for name, value in calls.items():
        tensors[f"{prefix}.{call}.{name}"] = value


def extra_arguments(call):
    return {"interpolate_pos_encoding": True} if call.startswith("resized") else {}


def write_case(folder, seed, make):
    torch.manual_seed(seed)
    draw = Draw(seed)
    model, calls = make(draw)
    model.eval()
    stages.spread_weights(model, seed)
    model.save_pretrained(folder)
    tensors = {}
    for call, given in calls.items():
        with_labels(tensors, given, "in", call)
        with_labels(tensors, stages.run(model, given, attention=True, **extra_arguments(call)), "f32", call)
    model.double()
    with stages.exact_tables():
        for call, given in calls.items():
            result = stages.run(model, given, attention=True, **extra_arguments(call))
            with_labels(tensors, result, "f64", call)
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, os.path.join(folder, "io.safetensors"))


def main(out):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Written beside and moved at the end: readers never see half an oracle.
    out = os.path.abspath(out)
    working = out + ".partial"
    shutil.rmtree(working, ignore_errors=True)
    for seed, (name, make) in enumerate(CASES.items(), start=1):
        write_case(os.path.join(working, name), seed, make)
        print(name)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(working, out)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    default = os.path.join(os.environ.get("PERCEIVER_BINARY_DIR", "build"), "oracle", "transformers_small")
    main(sys.argv[1] if len(sys.argv) == 2 else default)
