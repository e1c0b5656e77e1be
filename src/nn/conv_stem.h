#pragma once

#include <ATen/core/Tensor.h>

#include "nn/stems.h"

namespace perceiver::nn {

/// The convolutional stem: per layer 7x7/2 convolution, batch norm, ReLU, 3x3/2 max-pool; video
/// frame by frame. In training, batch norm uses batch statistics and updates the running ones.
/// @param raw  [B, H, W, C] or [B, T, H, W, C]
/// @return     channels last on the downsampled grid
at::Tensor conv_stem(const StemContext& context, const InputSpec& input, const at::Tensor& raw);

}  // namespace perceiver::nn
