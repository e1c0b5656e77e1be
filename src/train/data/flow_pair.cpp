#include "train/data/flow_pair.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

// [H, W] or [H, W, C] extended by zeros: false, no flow.
Array extended_by_zeros(const Array& values, const tokens::TileSize& size) {
  const int64_t height = std::max(values.size(0), size.height);
  const int64_t width = std::max(values.size(1), size.width);
  if (height == values.size(0) && width == values.size(1)) {
    return values;
  }
  std::vector<int64_t> shape = values.shape();
  shape[0] = height;
  shape[1] = width;
  Array out = Array::zeros(values.dtype(), shape);
  const int64_t row = values.nbytes() / values.size(0);
  const int64_t out_row = out.nbytes() / height;
  for (int64_t y = 0; y < values.size(0); ++y) {
    std::memcpy(out.mutable_bytes() + y * out_row, values.bytes() + y * row,
                static_cast<size_t>(row));
  }
  return out;
}

}  // namespace

io::Flow inverse_flow(const io::Flow& flow) {
  const int64_t height = flow.height();
  const int64_t width = flow.width();
  io::Flow inverse{Array::zeros(DType::kF32, {height, width, 2}),
                   Array::zeros(DType::kBool, {height, width})};
  std::vector<double> sums(static_cast<size_t>(2 * height * width));
  std::vector<int64_t> landed(static_cast<size_t>(height * width));
  const float* uv = flow.uv.data<float>();
  const bool* valid = flow.valid.data<bool>();
  for (int64_t i = 0; i < height * width; ++i) {
    if (!valid[i]) {
      continue;
    }
    const double u = uv[2 * i], v = uv[2 * i + 1];
    const double x = std::round(static_cast<double>(i % width) + u);
    const double y = std::round(static_cast<double>(i / width) + v);
    if (x < 0 || y < 0 || x >= static_cast<double>(width) || y >= static_cast<double>(height)) {
      continue;
    }
    const auto to = static_cast<size_t>(static_cast<int64_t>(y) * width + static_cast<int64_t>(x));
    sums[2 * to] -= u;
    sums[2 * to + 1] -= v;
    ++landed[to];
  }
  float* out = inverse.uv.mutable_data<float>();
  bool* known = inverse.valid.mutable_data<bool>();
  for (size_t i = 0; i < landed.size(); ++i) {
    if (landed[i] > 0) {
      known[i] = true;
      out[2 * i] = static_cast<float>(sums[2 * i] / static_cast<double>(landed[i]));
      out[2 * i + 1] = static_cast<float>(sums[2 * i + 1] / static_cast<double>(landed[i]));
    }
  }
  return inverse;
}

FlowPair reversed(const FlowPair& pair) {
  return {pair.second, pair.first, inverse_flow(pair.flow), {}};
}

Array cut_tile(const Array& frame, int64_t y, int64_t x, const tokens::TileSize& size) {
  if (y < 0 || x < 0 || y + size.height > frame.size(0) || x + size.width > frame.size(1)) {
    throw Error(ErrorCode::kShape,
                cat("a tile of ", size.height, "x", size.width, " at row ", y, ", column ", x,
                    " is outside of ", shape_string(frame.shape())));
  }
  std::vector<int64_t> shape = frame.shape();
  shape[0] = size.height;
  shape[1] = size.width;
  Array out = Array::zeros(frame.dtype(), shape);
  const int64_t pixel = frame.nbytes() / (frame.size(0) * frame.size(1));
  for (int64_t row = 0; row < size.height; ++row) {
    std::memcpy(out.mutable_bytes() + row * size.width * pixel,
                frame.bytes() + ((y + row) * frame.size(1) + x) * pixel,
                static_cast<size_t>(size.width * pixel));
  }
  return out;
}

FlowPair crop(const FlowPair& pair, int64_t y, int64_t x, const tokens::TileSize& size) {
  const auto part = [&](const Array& values) { return cut_tile(values, y, x, size); };
  FlowPair out;
  out.first = part(tokens::pad_to_tile(pair.first, size));
  out.second = part(tokens::pad_to_tile(pair.second, size));
  out.flow.uv = part(extended_by_zeros(pair.flow.uv, size));
  out.flow.valid = part(extended_by_zeros(pair.flow.valid, size));
  if (pair.occluded.defined()) {
    out.occluded = part(extended_by_zeros(pair.occluded, size));
  }
  return out;
}

}  // namespace perceiver::train
