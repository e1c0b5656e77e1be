#include "nn/products.h"

#include <algorithm>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace perceiver::nn {
namespace {

/// The least of a product's three sides, and of their product, for which seven products gain: what
/// packing and sums cost grows with its faces.
constexpr int64_t kLeastSide = 256, kLeastVolume = int64_t{1} << 28;
/// Longer sums pass over the output too often.
constexpr int64_t kLongestSum = 2048;

/// Whether the kernel can walk it: one step is 1 and nothing overlaps.
bool walkable(const at::Tensor& x) {
  const auto dense = [&](int64_t along, int64_t across) {
    return x.stride(along) == 1 && x.stride(across) >= x.size(along);
  };
  return x.is_cpu() && x.scalar_type() == at::kFloat && (dense(1, 0) || dense(0, 1));
}

bool takes_seven(const at::Tensor& a, const at::Tensor& b, ProductOrder order) {
  if (order != ProductOrder::kSeven || !walkable(a) || !walkable(b) ||
      !kernels::strassen_takes(b.size(0), b.size(1))) {
    return false;
  }
  const int64_t rows = a.size(0), in = b.size(0), out = b.size(1);
  return std::min({rows, in, out}) >= kLeastSide && in <= kLongestSum &&
         rows * in * out >= kLeastVolume;
}

kernels::StridedMatrix matrix_of(const at::Tensor& x) {
  return {x.const_data_ptr<float>(), x.stride(0), x.stride(1)};
}

void multiply_seven(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias,
                    const at::Tensor& out, bool accumulate) {
  const at::Tensor dense = bias.defined() ? bias.contiguous() : at::Tensor();
  kernels::strassen_multiply({.rows = a.size(0),
                              .in = b.size(0),
                              .out = b.size(1),
                              .a = matrix_of(a),
                              .b = matrix_of(b),
                              .bias = bias.defined() ? dense.const_data_ptr<float>() : nullptr,
                              .y = out.mutable_data_ptr<float>(),
                              .y_stride = out.stride(0),
                              .accumulate = accumulate});
}

}  // namespace

at::Tensor multiply(const at::Tensor& a, const at::Tensor& b, ProductOrder order,
                    const at::Tensor& bias) {
  if (takes_seven(a, b, order)) {
    at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
    multiply_seven(a, b, bias, out, /*accumulate=*/false);
    return out;
  }
  return bias.defined() ? at::addmm(bias, a, b) : at::mm(a, b);
}

void add_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, ProductOrder order) {
  if (takes_seven(a, b, order)) {
    multiply_seven(a, b, {}, sum, /*accumulate=*/true);
  } else {
    sum.addmm_(a, b);
  }
}

}  // namespace perceiver::nn
