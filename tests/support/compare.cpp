#include "support/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "perceiver/base/str.h"

namespace perceiver::test {

namespace {

std::string index_string(const Array& array, int64_t flat) {
  std::vector<int64_t> index(array.shape().size());
  for (size_t k = index.size(); k-- > 0;) {
    index[k] = flat % array.shape()[k];
    flat /= array.shape()[k];
  }
  return shape_string(index);
}

}  // namespace

double max_abs(const Array& array) {
  const Array wide = array.to(DType::kF64);
  double largest = 0;
  for (int64_t i = 0; i < wide.numel(); ++i) {
    const double value = std::abs(wide.data<double>()[i]);
    largest =
        std::isnan(value) ? std::numeric_limits<double>::infinity() : std::max(largest, value);
  }
  return largest;
}

Difference difference(const Array& got, const Array& wanted) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (got.shape() != wanted.shape()) {
    return {kInfinity, kInfinity,
            cat("shape ", shape_string(got.shape()), ", wanted ", shape_string(wanted.shape()))};
  }
  const Array a = got.to(DType::kF64);
  const Array b = wanted.to(DType::kF64);
  Difference worst;
  double squares = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i];
    const double y = b.data<double>()[i];
    double apart = std::abs(x - y);
    if (std::isnan(x) && std::isnan(y)) {
      apart = 0;
    } else if (std::isnan(apart)) {
      apart = kInfinity;
    }
    squares += apart * apart;
    if (apart > worst.max_abs) {
      worst.max_abs = apart;
      worst.text = cat("at ", index_string(a, i), ": ", x, ", wanted ", y);
    }
  }
  worst.rms = a.numel() == 0 ? 0 : std::sqrt(squares / static_cast<double>(a.numel()));
  return worst;
}

Array prefix(const Array& array, int64_t axis, int64_t count) {
  int64_t outer = 1;
  int64_t inner = dtype_size(array.dtype());
  for (int64_t k = 0; k < array.dim(); ++k) {
    (k < axis ? outer : inner) *= k == axis ? 1 : array.size(k);
  }
  std::vector<int64_t> shape = array.shape();
  const int64_t whole = shape[static_cast<size_t>(axis)];
  shape[static_cast<size_t>(axis)] = count;
  Array out = Array::zeros(array.dtype(), shape);
  for (int64_t o = 0; o < outer; ++o) {
    std::memcpy(out.mutable_bytes() + o * count * inner, array.bytes() + o * whole * inner,
                static_cast<size_t>(count * inner));
  }
  return out;
}

}  // namespace perceiver::test
