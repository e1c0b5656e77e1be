#pragma once

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver::train {

/// Whether start_local_grid() is for this model: its only input is a grid with Fourier positions
/// appended to the content as they are.
bool has_fourier_grid(const ModelSpec& model);

/// InitSpec::local_attention for grids. Latents are spread over the token grid; latent i starts as
/// the position features of its place, and the encoder's queries and keys project those features
/// alike (and nothing else), so the scores fall with distance. Where output queries are the input's
/// tokens, the decoder starts in the same way: each row reads the latents near it.
/// @param sharpness  factor on the scores
/// @throws Error(kArgument) when the features are wider than the latents
void start_local_grid(const ModelSpec& model, double sharpness, ArrayMap& weights);

}  // namespace perceiver::train
