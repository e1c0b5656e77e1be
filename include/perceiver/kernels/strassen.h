#pragma once

#include <cstdint>
#include <optional>

#include "perceiver/kernels/rows.h"

// y = x W^T with seven products of quarters where the definition has eight (Strassen 1969): an
// eighth less to multiply, for a few additions. Exact algebra; in float32 the error is that of a
// running sum some two times longer (docs/plans.md).

namespace perceiver::kernels {

/// How a product is computed: as defined, or with seven products of quarters for eight where it is
/// wide enough to gain by that.
enum class ProductOrder { kPlain, kSeven };

struct StrassenKernel;

/// A matrix in memory. One of the steps is 1.
struct StridedMatrix {
  const float* data = nullptr;
  int64_t row_step = 0, column_step = 1;

  float at(int64_t row, int64_t column) const {
    return data[row * row_step + column * column_step];
  }
};

/// W^T [in, out] and a bias, packed for a kernel. The memory is the caller's.
struct StrassenWeight {
  int64_t in = 0, out = 0;
  const float* packed = nullptr;
  const StrassenKernel* kernel = nullptr;
};

/// Whether both sides halve into whole panels: `in` even, `out` a multiple of 64.
bool strassen_takes(int64_t in, int64_t out);
/// Floats of a packed weight.
int64_t strassen_floats(int64_t in, int64_t out);
/// The kernel of the set in use.
const StrassenKernel* strassen_kernel();
/// @param weight  W^T [in, out]  @param bias [out], null = zero
/// @param packed  64-byte aligned, strassen_floats(); to outlive what is returned
StrassenWeight strassen_pack(int64_t in, int64_t out, const StridedMatrix& weight,
                             const float* bias, float* packed,
                             const StrassenKernel* kernel = strassen_kernel(), int threads = 0);

/// One product. Columns lie in two halves: those of x [rows, in / 2] each, of y [rows, out / 2].
struct StrassenProduct {
  int64_t rows = 0;
  const float* x[2] = {};
  int64_t x_stride = 0;
  float* y[2] = {};
  int64_t y_stride = 0;
  bool accumulate = false;  ///< y += x W^T + bias
  std::optional<Activation> activation;
  int threads = 0;  ///< 0 = as OpenMP says
};

/// The same bytes for every number of threads. Rows are taken in groups of at most 256, in which
/// the seven products pair a row of the first half with one of the second: a row that is not finite
/// spoils its group. Fewer than 64 rows, or the last of an odd number, are multiplied as defined.
/// @throws std::bad_alloc
void strassen_multiply(const StrassenWeight& weight, const StrassenProduct& product);

/// y = a b + bias of matrices that are known only now.
struct StrassenOperands {
  int64_t rows = 0, in = 0, out = 0;
  StridedMatrix a;              ///< [rows, in]
  StridedMatrix b;              ///< [in, out]; as strassen_takes() says
  const float* bias = nullptr;  ///< [out] or null
  float* y = nullptr;           ///< [rows, out]
  int64_t y_stride = 0;
  bool accumulate = false;  ///< y += a b + bias
  int threads = 0;          ///< 0 = as OpenMP says
};

/// As above; b is packed, and a copied where it does not lie well, into memory that the calling
/// thread keeps.
/// @throws std::bad_alloc
void strassen_multiply(const StrassenOperands& operands,
                       const StrassenKernel* kernel = strassen_kernel());

}  // namespace perceiver::kernels
