#pragma once

#include <cstdint>
#include <vector>

namespace perceiver::runtime {

/// A weight while it is being folded and composed, at load. Row-major [out, in]; bias [out].
struct Affine {
  int64_t out = 0;
  int64_t in = 0;
  std::vector<float> weight;
  std::vector<float> bias;  ///< empty = zero

  /// y = this(gamma * x + beta): LayerNorm's scale and shift moved in here. Sums in double.
  void fold_norm(const float* gamma, const float* beta);
};
/// outer(inner(x)) as one map. Products in double, rounded once.
Affine compose(const Affine& outer, const Affine& inner);
/// The part of a map that computes outputs [begin, end).
Affine rows_between(const Affine& affine, int64_t begin, int64_t end);
/// Several maps of the same input side by side: rows of the weights stacked.
Affine stack(const std::vector<const Affine*>& parts);

}  // namespace perceiver::runtime
