#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/kernels/attend.h"

namespace perceiver::nn {

/// One side of an attention on a grid: kernels::TokenGrid as tensors.
struct GridTerms {
  kernels::GridSide side = kernels::GridSide::kNone;
  std::vector<int64_t> extents;
  int64_t begin = 0;               ///< grid index of the first token of that side
  at::Tensor scale;                ///< a: [B or 1, tokens]; undefined = 1
  std::vector<at::Tensor> tables;  ///< kKeys: [B, H, Q, extent_x]; kQueries: [B, H, extent_x, K]
};

/// Everything a score is made of (the formulas stand in kernels/attend.h). A batch or head extent
/// of 1 is shared by all batches or heads; the larger one decides.
struct AttendTerms {
  at::Tensor q;         ///< [B, H, Q, dk]
  at::Tensor k;         ///< [B, H, K, dk]
  at::Tensor v;         ///< [B, H, K, dv]
  at::Tensor key_mask;  ///< [B, K] bool, true = attend; undefined = all
  at::Tensor key_bias;  ///< [B, H, K]; undefined = 0
  double scale = 1;
  GridTerms grid;
};

struct Attended {
  /// [B, H, Q, dv], zero where no key is valid; in memory [B, Q, H, dv], so joining heads is a view
  at::Tensor out;
  at::Tensor lse;                ///< [B, H, Q], -inf where no key is valid; float32 for half widths
  std::vector<at::Tensor> sums;  ///< kKeys: [B, H, Q, extent_x] per axis
};

/// Attention as an autograd function, differentiable in q, k, v, key_bias, scale and tables, also
/// through lse and sums; keeps its inputs, out, sums and lse, and makes score tiles again backward.
/// float32 on the CPU runs our kernels, float64 their reference; elsewhere (CUDA, half widths) the
/// same order as LibTorch operations in tiles.
/// @throws Error(kShape) naming both shapes
Attended attend_terms(const AttendTerms& terms);

/// `out` of attend_terms() alone: on a GPU by LibTorch's fused kernel, where it has one for these
/// widths and this dtype.
at::Tensor attended_values(const AttendTerms& terms);

}  // namespace perceiver::nn
