#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/nn/attend_terms.h"

namespace perceiver::nn {

/// How attend_terms() computes.
enum class AttendPath {
  kBest,       ///< kernels or reference on the CPU by dtype, tiles elsewhere
  kReference,  ///< the plain loops; CPU, float32 or float64
  kTiles,      ///< LibTorch operations, any device and dtype
};

/// Bytes of scores made at a time where the caller leaves that to us: 8 MiB on the CPU, 128 MiB
/// elsewhere, since a GPU wants few calls on much data.
int64_t default_tile_bytes(const at::Tensor& q);

/// attend_terms() by a path of the caller's choice.
/// @param tile_bytes  scores made at a time in kTiles; 0 = default_tile_bytes()
Attended attend_terms_by(const AttendTerms& terms, AttendPath path, int64_t tile_bytes = 0);

/// Common extents of the parts of an attention.
struct AttendExtents {
  int64_t batch, heads, queries, keys;
};
AttendExtents attend_extents(const AttendTerms& terms);

/// Of the inputs with gradients, in the order of AttendTerms.
template <typename T>
struct PerInput {
  T q, k, v, key_bias, scale;
  std::vector<T> tables;
};

/// Neither function below records gradients. Both take terms that attend_terms() has checked.
Attended attend_tiles(const AttendTerms& terms, int64_t tile_bytes);
/// @param result  of attend_tiles with the same terms
/// @param grad    out is defined; lse and the elements of sums may be undefined
/// @param wanted  gradients to make; the others stay undefined
PerInput<at::Tensor> attend_tiles_backward(const AttendTerms& terms, const Attended& result,
                                           const Attended& grad, const PerInput<bool>& wanted,
                                           int64_t tile_bytes);

}  // namespace perceiver::nn
