#include "runtime/linear.h"

#include <algorithm>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"
#include "runtime/pages.h"
#include "runtime/rows.h"

namespace perceiver::runtime {
namespace {

/// Input channels of one running sum. As in a GEMM's blocks: longer ones would double the rounding
/// error of wide models.
constexpr int64_t kLongestSum = 640;
constexpr int64_t kPartStep = 8;

/// Columns [first, first + width) of a map; the bias with the last.
Affine columns(const Affine& affine, int64_t first, int64_t width) {
  Affine part{affine.out, width, {}, {}};
  part.weight.reserve(static_cast<size_t>(affine.out * width));
  for (int64_t o = 0; o < affine.out; ++o) {
    const auto row = affine.weight.begin() + o * affine.in + first;
    part.weight.insert(part.weight.end(), row, row + width);
  }
  if (first + width == affine.in) {
    part.bias = affine.bias;
  }
  return part;
}

std::vector<PackedWeight> pack_in_parts(const Affine& affine, bool native_bf16) {
  const int64_t count = (affine.in + kLongestSum - 1) / kLongestSum;
  const int64_t width = ((affine.in + count - 1) / count + kPartStep - 1) / kPartStep * kPartStep;
  std::vector<PackedWeight> parts;
  for (int64_t first = 0; first < affine.in; first += width) {
    parts.emplace_back(columns(affine, first, std::min(width, affine.in - first)), native_bf16);
    if (!parts.back().sums_in_one_chain()) {
      return {};
    }
  }
  return parts;
}

Matrix whole_scratch(int64_t rows, int64_t columns) {
  thread_local Pages pages;
  const int64_t bytes = rows * columns * static_cast<int64_t>(sizeof(float));
  if (pages.size() < bytes) {
    pages = Pages();
    pages = Pages(bytes);
  }
  return {reinterpret_cast<float*>(pages.data()), rows, columns, columns};
}

void add_rows(ConstMatrix from, Matrix to) {
  for_rows(from.rows, from.columns, [&](int64_t i) {
    const float* added = from.row(i);
    float* row = to.row(i);
#pragma omp simd
    for (int64_t c = 0; c < to.columns; ++c) {
      row[c] += added[c];
    }
  });
}

}  // namespace

Linear::Linear(Affine affine, Precision precision) : in_(affine.in), out_(affine.out) {
  const bool native = precision == Precision::kBF16 && kernels::has_native_bfloat16();
  if (precision == Precision::kBF16 && !native) {
    for (float& value : affine.weight) {
      value = bfloat16_to_float(float_to_bfloat16(value));
    }
  }
  if (affine.in > kLongestSum) {
    parts_ = pack_in_parts(affine, native);
  }
  if (parts_.empty()) {
    parts_.emplace_back(affine, native);
  }
}

void Linear::apply(ConstMatrix x, Matrix y, const Epilogue& epilogue) const {
  if (parts_.empty() || x.columns != in() || y.columns != out() || x.rows != y.rows) {
    throw Error(ErrorCode::kInternal, cat("linear of ", in(), " to ", out(), " was given ", x.rows,
                                          "x", x.columns, " for ", y.rows, "x", y.columns));
  }
  if (x.rows == 0) {
    return;
  }
  if (epilogue.activation && epilogue.accumulate) {
    const Matrix added = whole_scratch(y.rows, y.columns);
    apply(x, added, {epilogue.activation, false});
    add_rows(added, y);
    return;
  }
  int64_t first = 0;
  for (const PackedWeight& part : parts_) {
    const int64_t width = part.in();
    const bool last = first + width == in();
    part.apply(x.slice(first, width), y,
               {last ? epilogue.activation : std::nullopt, epilogue.accumulate || first > 0});
    first += width;
  }
}

}  // namespace perceiver::runtime
