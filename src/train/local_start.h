#pragma once

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver::train {

/// Whether start_local_places() is for this model: its only input has Fourier positions appended to
/// the content as they are, and is a grid or a set of elements with coordinates.
bool has_fourier_places(const ModelSpec& model);

/// InitSpec::local_attention for grids and sets. Latents are spread over the token grid, or over
/// the square (cube) of the coordinates; latent i starts as the position features of its place, and
/// the encoder's queries and keys project those features alike (and nothing else), so the scores
/// fall with distance. Where output queries are the input's tokens, the decoder starts in the same
/// way: each row reads the latents near it.
/// @param sharpness  factor on the scores
/// @throws Error(kArgument) when the features are wider than the latents
void start_local_places(const ModelSpec& model, double sharpness, ArrayMap& weights);

}  // namespace perceiver::train
