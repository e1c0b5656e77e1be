#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "perceiver/spec/model_spec.h"
#include "runtime/affine.h"
#include "runtime/matrix.h"

namespace perceiver::runtime {

/// What happens to a product before it is stored.
struct Epilogue {
  std::optional<perceiver::Activation> activation;
  /// Add to what `y` holds: the residual. With PackedWeight the sum is activated, with Linear what
  /// is added.
  bool accumulate = false;
};

/// One weight as oneDNN likes it, packed once, and its products. Primitives are made per row count
/// and kept. Not thread-safe.
class PackedWeight {
 public:
  PackedWeight(const Affine& affine, bool native_bf16);
  ~PackedWeight();
  PackedWeight(PackedWeight&&) noexcept;
  PackedWeight& operator=(PackedWeight&&) noexcept;

  int64_t in() const;
  int64_t out() const;
  /// Whether each result of such a map would be one running sum over all of `in`: its rounding
  /// error grows with the square root of that, where a GEMM adds sums of a few hundred products.
  static bool sums_in_one_chain(int64_t in, int64_t out, bool native_bf16);
  /// Whether no product so far was left to oneDNN's reference loops, hundreds of times slower.
  bool ran_fast() const;
  /// y = activation(x W^T + b + (accumulate ? y : 0)). @param x [rows, in]  @param y [rows, out]
  void apply(ConstMatrix x, Matrix y, const Epilogue& epilogue) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace perceiver::runtime
