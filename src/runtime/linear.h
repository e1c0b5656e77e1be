#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "perceiver/kernels/strassen.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/affine.h"
#include "runtime/matrix.h"
#include "runtime/packed_weight.h"
#include "runtime/pages.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

enum class Precision { kF32, kBF16 };

using kernels::ProductOrder;

/// y = epilogue(x W^T + b) by oneDNN or by seven products, weights packed once at construction. Not
/// thread-safe.
class Linear {
 public:
  Linear() = default;  ///< of nothing, to be assigned to
  /// @param out_part  columns of each part of the output; 0: it is one
  /// @param order     kSeven asks for it: for products of many rows
  Linear(Affine affine, Precision precision, int64_t out_part = 0,
         ProductOrder order = ProductOrder::kPlain);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  /// Columns of the parts in which the input is summed: in dense parts of this width it is read
  /// where it lies.
  int64_t in_part() const { return in_part_; }
  /// See PackedWeight: for tests on CPUs of every kind.
  bool ran_fast() const;
  ProductOrder order() const { return seven_ ? ProductOrder::kSeven : ProductOrder::kPlain; }
  /// Rows of input that are read where they lie: without gaps for oneDNN, with them for seven.
  InParts<Matrix> room(int64_t rows, Workspace& workspace) const;
  /// @param x [rows, in]  @param y [rows, out], not overlapping x
  void apply(ConstMatrix x, Matrix y, const Epilogue& epilogue = {}) const;
  /// @param x [rows, in] in parts of in_part()  @param y [rows, out] in parts of out_part
  void apply(const InParts<ConstMatrix>& x, const InParts<Matrix>& y,
             const Epilogue& epilogue = {}) const;

 private:
  void apply_part(const InParts<ConstMatrix>& x, int64_t out, Matrix y,
                  const Epilogue& epilogue) const;

  void apply_seven(const InParts<ConstMatrix>& x, const InParts<Matrix>& y,
                   const Epilogue& epilogue) const;

  int64_t in_ = 0, out_ = 0, in_part_ = 0, out_part_ = 0;
  /// The weight, in pages of its own, where it is multiplied by seven products.
  std::optional<kernels::StrassenWeight> seven_;
  Pages pages_;
  /// [parts of the output, parts of the input]; products over parts of the input add up
  std::vector<PackedWeight> parts_;
};

/// c = a b^T (+ c if accumulate), both read as they lie: for operands known only at run time.
/// @param a [m, k]  @param b [n, k]  @param c [m, n]
void multiply_transposed(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);
/// c = a b (+ c if accumulate). @param a [m, k]  @param b [k, n]  @param c [m, n]
void multiply(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate = false);

}  // namespace perceiver::runtime
