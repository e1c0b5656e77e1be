#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "perceiver/spec/model_spec.h"

namespace perceiver::nn {

/// Joins several processes that read one input together: each keeps a part of it, attends to that
/// alone, and the weighted means over the parts are merged by their softmax sums, which is exact.
/// Everything behind the encoder's cross-attention runs on every process alike.
class Merger {
 public:
  virtual ~Merger() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Every process's tensor, stacked by rank; all call it in the same order.
  /// @param x [...], the same shape everywhere  @return [size, ...]
  virtual at::Tensor gather(const at::Tensor& x) = 0;
};

/// Slices of an input's first raw axis (rows, frames, samples).
struct InputPart {
  int64_t begin = 0;
  int64_t length = 0;
};
/// Which part process `rank` of `size` reads: whole patches, as equal as can be.
InputPart input_part(const InputSpec& input, int rank, int size);

/// @throws Error(kUnsupported) naming what keeps `spec` from being read by `size` processes
/// together: it takes one grid input without convolution or mask token, one cross-attend without
/// dropout of weights, and outputs that do not ask by the input's own tokens
void check_input_parallel(const ModelSpec& spec, int size);

}  // namespace perceiver::nn
