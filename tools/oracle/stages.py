"""Runs a transformers Perceiver and keeps every stage under the names our own trace uses.

  tokens              [B, M, C]   what enters the encoder
  latents.0           [B, N, D]   after the cross-attend; latents.<k> after self-attend k
  decoder_queries     [B, O, E]
  decoder_output      [B, O, E]   before the final linear
  attention.encoder, attention.self.<k> (from 0), attention.decoder     softmax results [B, H, queries, keys]
  logits, or logits.<modality>
"""

import contextlib

import torch
from transformers.models.perceiver import modeling_perceiver as peer


def spread_weights(model, seed):
    """Redraws every tensor so that each bias, scale and offset matters to the result."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            leaf = name.rsplit(".", 2)
            if "layernorm" in name or "batchnorm" in name:
                tensor.copy_(1 + 0.3 * normal(tensor) if name.endswith("weight") else 0.2 * normal(tensor))
            elif tensor.dim() >= 2 and name.endswith("weight") and "embeddings" not in name:
                fan_in = tensor[0].numel()
                wide = len(leaf) > 1 and leaf[-2] in ("query", "key")
                tensor.copy_((1.6 if wide else 1.3) / fan_in**0.5 * normal(tensor))
            elif name.endswith("bias"):
                tensor.copy_(0.2 * normal(tensor))
            else:  # embeddings, latents, position tables, padding and mask tokens
                tensor.copy_(0.7 * normal(tensor))
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * normal(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + normal(buffer).abs())


@contextlib.contextmanager
def exact_tables():
    """The library builds Fourier tables in float32 whatever the model's dtype; here in float64."""

    def positions(index_dims, output_range=(-1.0, 1.0), device=None):
        axes = [torch.linspace(*output_range, n, dtype=torch.float64, device=device) for n in index_dims]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    theirs = peer.build_linear_positions
    peer.build_linear_positions = positions
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        peer.build_linear_positions = theirs


class Recorder:
    """Forward hooks on the modules whose results are stages."""

    def __init__(self, model, attention):
        self.stages, self.attention, self.handles = {}, attention, []
        self.selfs = 0
        core = model.perceiver
        decoder = next(m for n, m in model.named_modules() if n.endswith("decoding_cross_attention"))
        self._hook(core.input_preprocessor, self._tokens)
        self._hook(core.encoder.cross_attention, self._encoder)
        for layer in core.encoder.self_attends:
            self._hook(layer, self._self)
        self._hook(decoder, self._decoder)

    def _hook(self, module, function):
        self.handles.append(module.register_forward_hook(function, with_kwargs=True))

    def _tokens(self, module, args, kwargs, output):
        self.stages["tokens"] = output[0]

    def _encoder(self, module, args, kwargs, output):
        self.stages["latents.0"] = output[0]
        if self.attention:
            self.stages["attention.encoder"] = output[1]

    def _self(self, module, args, kwargs, output):
        self.selfs += 1
        self.stages[f"latents.{self.selfs}"] = output[0]
        if self.attention:
            self.stages[f"attention.self.{self.selfs - 1}"] = output[1]

    def _decoder(self, module, args, kwargs, output):
        self.stages["decoder_queries"] = args[0] if args else kwargs["hidden_states"]
        self.stages["decoder_output"] = output[0]
        if self.attention:
            self.stages["attention.decoder"] = output[1]

    def close(self):
        for handle in self.handles:
            handle.remove()


def arguments(tensors, dtype):
    """Flat tensor names -> forward()'s arguments, floating ones in `dtype`."""
    call = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        head, _, modality = name.partition(".")
        if modality:
            call.setdefault(head, {})[modality] = tensor
        else:
            call[head] = tensor
    return call


def run(model, tensors, attention=False, **extra):
    """All stages of one forward, as float tensors on their own."""
    dtype = next(model.parameters()).dtype
    recorder = Recorder(model, attention)
    try:
        with torch.no_grad():
            call = arguments(tensors, dtype)
            result = model(**call, output_attentions=attention, **extra).logits
    finally:
        recorder.close()
    stages = dict(recorder.stages)
    if isinstance(result, dict):
        stages.update({f"logits.{name}": value for name, value in result.items()})
    else:
        stages["logits"] = result
    return {name: value.detach().clone().contiguous() for name, value in stages.items()}
