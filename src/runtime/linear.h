#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/kernels/rows.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/affine.h"
#include "runtime/matrix.h"
#include "runtime/packed_weight.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

enum class Precision { kF32, kBF16 };

/// y = epilogue(x W^T + b) by oneDNN, weights packed once at construction. Not thread-safe.
class Linear {
 public:
  Linear() = default;  ///< of nothing, to be assigned to
  Linear(Affine affine, Precision precision);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  /// @param x [rows, in]  @param y [rows, out], not overlapping x
  void apply(ConstMatrix x, Matrix y, const Epilogue& epilogue = {}) const;

 private:
  int64_t in_ = 0, out_ = 0;
  std::vector<PackedWeight> parts_;  ///< of consecutive input channels; their products add up
};

/// c = a b^T (+ c if accumulate), both read as they lie: for operands known only at run time.
/// @param a [m, k]  @param b [n, k]  @param c [m, n]
void multiply_transposed(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);
/// c = a b (+ c if accumulate). @param a [m, k]  @param b [k, n]  @param c [m, n]
void multiply(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);

}  // namespace perceiver::runtime
