#pragma once

#include <ATen/core/Tensor.h>

#include "nn/plans.h"
#include "perceiver/nn/merger.h"

namespace perceiver::nn {

/// What all processes of `merger` have read, as if their tokens stood side by side. Differentiable
/// where every process's loss is its share of one common loss (docs/many-machines.md).
/// @return [B, H, N, C], the same on every process
at::Tensor merge_parts(const ReadTokens& read, Merger& merger);

}  // namespace perceiver::nn
