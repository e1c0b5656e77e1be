#include <algorithm>
#include <cstring>
#include <dnnl.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/linear.h"

namespace perceiver::runtime {
namespace {

void product(bool transposed, ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  const int64_t k = a.columns;
  const bool fits = c.rows == a.rows && c.columns == (transposed ? b.rows : b.columns) &&
                    k == (transposed ? b.columns : b.rows);
  if (!fits) {
    throw Error(ErrorCode::kInternal, cat("product of ", a.rows, "x", a.columns, " and ", b.rows,
                                          "x", b.columns, " for ", c.rows, "x", c.columns));
  }
  if (c.rows == 0 || c.columns == 0) {
    return;
  }
  if (k == 0) {
    for (int64_t i = 0; i < c.rows && !accumulate; ++i) {
      std::memset(c.row(i), 0, static_cast<size_t>(c.columns) * sizeof(float));
    }
    return;
  }
  const auto step = [](int64_t stride, int64_t columns) { return std::max(stride, columns); };
  const dnnl::status status =
      dnnl::sgemm('N', transposed ? 'T' : 'N', c.rows, c.columns, k, 1.0F, a.data,
                  step(a.stride, a.columns), b.data, step(b.stride, b.columns),
                  accumulate ? 1.0F : 0.0F, c.data, step(c.stride, c.columns));
  if (status != dnnl::status::success) {
    throw Error(
        status == dnnl::status::out_of_memory ? ErrorCode::kIo : ErrorCode::kInternal,
        cat("oneDNN refused a product of ", a.rows, "x", k, " and ", b.rows, "x", b.columns));
  }
}

}  // namespace

void multiply_transposed(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  product(true, a, b, c, accumulate);
}

void multiply(ConstMatrix a, ConstMatrix b, Matrix c, bool accumulate) {
  product(false, a, b, c, accumulate);
}

}  // namespace perceiver::runtime
