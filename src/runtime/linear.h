#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "perceiver/kernels/rows.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/affine.h"
#include "runtime/matrix.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

enum class Precision { kF32, kBF16 };

/// What happens to a product before it is stored.
struct Epilogue {
  std::optional<perceiver::Activation> activation;
  bool accumulate = false;  ///< add to what `y` holds (after the activation): the residual
};

/// y = epilogue(x W^T + b) by oneDNN, weights packed once at construction. Primitives are made per
/// row count and kept. Not thread-safe.
class Linear {
 public:
  Linear();  ///< of nothing, to be assigned to
  Linear(Affine affine, Precision precision);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  int64_t in() const;
  int64_t out() const;
  /// @param x [rows, in]  @param y [rows, out], not overlapping x
  void apply(ConstMatrix x, Matrix y, const Epilogue& epilogue = {}) const;

 private:
  struct Packed;
  std::unique_ptr<Packed> packed_;
};

/// c = a b^T (+ c if accumulate), both read as they lie: for operands known only at run time.
/// @param a [m, k]  @param b [n, k]  @param c [m, n]
void multiply_transposed(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);
/// c = a b (+ c if accumulate). @param a [m, k]  @param b [k, n]  @param c [m, n]
void multiply(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);

}  // namespace perceiver::runtime
