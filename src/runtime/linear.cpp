#include "runtime/linear.h"

#include <algorithm>
#include <iterator>

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
/// Channels of either side below which seven products gain nothing over oneDNN's: their sums and
/// what they add to the output cost by the row, not by the product.
constexpr int64_t kSevenLeast = 1024;

kernels::Activation kernel_of(Activation activation) {
  switch (activation) {
    case Activation::kGeluErf:
      return kernels::Activation::kGeluErf;
    case Activation::kGeluTanh:
      return kernels::Activation::kGeluTanh;
    case Activation::kRelu:
      return kernels::Activation::kRelu;
    case Activation::kSilu:
      return kernels::Activation::kSilu;
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

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

int64_t width_of_parts(int64_t in) {
  return even_part(in, kLongestSum, kPartStep);
}

/// Packed by parts of `width` input channels; by one where oneDNN does that by itself.
std::vector<PackedWeight> pack_in_parts(const Affine& affine, int64_t width, bool native_bf16) {
  std::vector<PackedWeight> parts;
  if (width >= affine.in || !PackedWeight::sums_in_one_chain(width, affine.out, native_bf16)) {
    parts.emplace_back(affine, native_bf16);
    return parts;
  }
  for (int64_t first = 0; first < affine.in; first += width) {
    parts.emplace_back(columns(affine, first, std::min(width, affine.in - first)), native_bf16);
  }
  return parts;
}

/// Columns in dense parts of `width`.
InParts<Matrix> whole_scratch(int64_t rows, int64_t columns, int64_t width) {
  thread_local Pages pages;
  const int64_t floats = rows * round_up(columns, width);
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  if (pages.size() < bytes) {
    pages = Pages();
    pages = Pages(bytes);
  }
  return {{reinterpret_cast<float*>(pages.data()), rows, width, width}, columns, rows * width};
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

Linear::Linear(Affine affine, Precision precision, int64_t out_part, ProductOrder order)
    : in_(affine.in), out_(affine.out), out_part_(out_part == 0 ? affine.out : out_part) {
  const bool native = precision == Precision::kBF16 && kernels::has_native_bfloat16();
  if (precision == Precision::kBF16 && !native) {
    for (float& value : affine.weight) {
      value = bfloat16_to_float(float_to_bfloat16(value));
    }
  }
  const bool in_halves = out_part_ == out_ || out_part_ * 2 == out_;
  if (order == ProductOrder::kSeven && !native && in_halves && std::min(in_, out_) >= kSevenLeast &&
      kernels::strassen_takes(in_, out_)) {
    in_part_ = in_ / 2;
    pages_ = Pages(kernels::strassen_floats(in_, out_) * static_cast<int64_t>(sizeof(float)));
    seven_ = kernels::strassen_pack(in_, out_, {affine.weight.data(), 1, in_},
                                    affine.bias.empty() ? nullptr : affine.bias.data(),
                                    reinterpret_cast<float*>(pages_.data()));
    return;
  }
  for (int64_t first = 0; first < out_; first += out_part_) {
    const int64_t end = std::min(first + out_part_, out_);
    auto packed = pack_in_parts(end - first == out_ ? affine : rows_between(affine, first, end),
                                width_of_parts(in_), native);
    in_part_ = packed.front().in();
    std::move(packed.begin(), packed.end(), std::back_inserter(parts_));
  }
}

bool Linear::ran_fast() const {
  return std::all_of(parts_.begin(), parts_.end(),
                     [](const PackedWeight& part) { return part.ran_fast(); });
}

InParts<Matrix> Linear::room(int64_t rows, Workspace& workspace) const {
  return seven_ ? workspace.parts(rows, in_, in_part_) : workspace.dense_parts(rows, in_, in_part_);
}

void Linear::apply_part(const InParts<ConstMatrix>& x, int64_t out, Matrix y,
                        const Epilogue& epilogue) const {
  const int64_t count = (in_ + in_part_ - 1) / in_part_;
  for (int64_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    parts_[static_cast<size_t>(out * count + i)].apply(
        x.part(i), y, {last ? epilogue.activation : std::nullopt, epilogue.accumulate || i > 0});
  }
}

void Linear::apply_seven(const InParts<ConstMatrix>& x, const InParts<Matrix>& y,
                         const Epilogue& epilogue) const {
  kernels::StrassenProduct product;
  product.rows = x.first.rows;
  product.x[0] = x.first.data;
  product.x[1] = x.first.data + x.step;
  product.x_stride = x.first.stride;
  product.y[0] = y.first.data;
  product.y[1] = y.first.data + (y.width() == out_ ? out_ / 2 : y.step);
  product.y_stride = y.first.stride;
  product.accumulate = epilogue.accumulate;
  if (epilogue.activation) {
    product.activation = kernel_of(*epilogue.activation);
  }
  kernels::strassen_multiply(*seven_, product);
}

void Linear::apply(const InParts<ConstMatrix>& x, const InParts<Matrix>& y,
                   const Epilogue& epilogue) const {
  if ((parts_.empty() && !seven_) || x.columns != in() || y.columns != out() ||
      x.first.rows != y.first.rows || x.width() != in_part_ || y.width() != out_part_) {
    throw Error(ErrorCode::kInternal,
                cat("linear of ", in(), " to ", out(), ", in parts of ", in_part_, " and ",
                    out_part_, ", was given ", x.first.rows, "x", x.columns, " in parts of ",
                    x.width(), " for ", y.first.rows, "x", y.columns, " in parts of ", y.width()));
  }
  if (epilogue.activation && epilogue.accumulate) {
    const InParts<Matrix> added = whole_scratch(x.first.rows, out_, out_part_);
    apply(x, added, {epilogue.activation, false});
    for (int64_t o = 0; o * out_part_ < out_; ++o) {
      add_rows(added.part(o), y.part(o));
    }
    return;
  }
  if (seven_) {
    apply_seven(x, y, epilogue);
    return;
  }
  for (int64_t o = 0; x.first.rows > 0 && o * out_part_ < out_; ++o) {
    apply_part(x, o, y.part(o), epilogue);
  }
}

void Linear::apply(ConstMatrix x, Matrix y, const Epilogue& epilogue) const {
  apply(side_by_side(x, in_part_), side_by_side(y, out_part_), epilogue);
}

}  // namespace perceiver::runtime
