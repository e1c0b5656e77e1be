#include "perceiver/tokens/flow_tiles.h"

#include <algorithm>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/patches.h"

namespace perceiver::tokens {
namespace {

void check_tile(const TileSize& tile) {
  if (tile.height < 1 || tile.width < 1) {
    throw Error(ErrorCode::kArgument, cat("a tile of ", tile.width, "x", tile.height, " pixels"));
  }
}

/// Starts along one axis, each with how often the grid of the colab repeats it.
std::vector<Tile> starts_along(int64_t frame, int64_t tile, int64_t overlap) {
  if (frame < 1 || overlap < 0 || overlap >= tile) {
    throw Error(ErrorCode::kArgument,
                cat("cannot tile ", frame, " pixels by ", tile, " with an overlap of ", overlap));
  }
  std::vector<Tile> starts;
  const int64_t step = tile - overlap, last = std::max<int64_t>(0, frame - tile);
  for (int64_t at = 0; at < frame; at += step) {
    const bool is_last = at + step >= frame;
    if (at > last && !is_last) {
      continue;  // would reach beyond the frame, as the colab's grid does; the last tile covers it
    }
    const int64_t start = is_last ? last : at;
    if (!starts.empty() && starts.back().y == start) {
      ++starts.back().count;
    } else {
      starts.push_back({start, 0, 1});
    }
  }
  return starts;
}

/// [tile.height, tile.width, C] of `frame` at `at`.
Array cut(const Array& frame, const Tile& at, const TileSize& tile) {
  const int64_t width = frame.size(1), channels = frame.size(2);
  Array out = Array::zeros(frame.dtype(), {tile.height, tile.width, channels});
  const int64_t pixel_bytes = channels * dtype_size(frame.dtype());
  for (int64_t y = 0; y < tile.height; ++y) {
    std::memcpy(out.mutable_bytes() + y * tile.width * pixel_bytes,
                frame.bytes() + ((at.y + y) * width + at.x) * pixel_bytes,
                static_cast<size_t>(tile.width * pixel_bytes));
  }
  return out;
}

void check_holds(const Array& frame, const Tile& at, const TileSize& tile) {
  if (frame.dim() != 3 || at.y < 0 || at.x < 0 || at.y + tile.height > frame.size(0) ||
      at.x + tile.width > frame.size(1)) {
    throw Error(ErrorCode::kShape,
                cat("a tile of ", tile.width, "x", tile.height, " at row ", at.y, ", column ", at.x,
                    " does not lie in a frame of ", shape_string(frame.shape())));
  }
}

struct PatchAxis {
  int64_t in, out, size, stride, rate, before;
};

PatchAxis patch_axis(int64_t in, int64_t size, int64_t stride, int64_t rate, PatchPadding padding) {
  constexpr int64_t kMaxTerm = 1 << 20;
  if (size < 1 || stride < 1 || rate < 1 || size > kMaxTerm || rate > kMaxTerm) {
    throw Error(ErrorCode::kArgument,
                cat("patches of size ", size, ", stride ", stride, ", rate ", rate));
  }
  const int64_t reach = (size - 1) * rate + 1;
  if (padding == PatchPadding::kValid) {
    return {in, in < reach ? 0 : (in - reach) / stride + 1, size, stride, rate, 0};
  }
  const int64_t out = (in + stride - 1) / stride;
  const int64_t pad = std::max<int64_t>(0, (out - 1) * stride + reach - in);
  return {in, out, size, stride, rate, pad / 2};
}

}  // namespace

int64_t flow_overlap(const TileSize& tile, int64_t wanted) {
  return std::min(wanted, std::min(tile.height, tile.width) / 2);
}

std::vector<Tile> flow_tiles(int64_t frame_height, int64_t frame_width, const TileSize& tile,
                             int64_t min_overlap) {
  check_tile(tile);
  std::vector<Tile> tiles;
  const std::vector<Tile> columns = starts_along(frame_width, tile.width, min_overlap);
  for (const Tile& row : starts_along(frame_height, tile.height, min_overlap)) {
    for (const Tile& column : columns) {
      tiles.push_back({row.y, column.y, row.count * column.count});
    }
  }
  return tiles;
}

Array normalize_frame(const Array& frame) {
  if (frame.dim() != 3 || frame.size(2) != 3 || frame.dtype() != DType::kU8) {
    throw Error(ErrorCode::kShape,
                cat("a frame must be [H, W, 3] U8, got ", shape_string(frame.shape()), " ",
                    dtype_name(frame.dtype())));
  }
  Array out = Array::zeros(DType::kF32, frame.shape());
  const uint8_t* from = frame.data<uint8_t>();
  std::transform(from, from + frame.numel(), out.mutable_data<float>(),
                 [](uint8_t level) { return static_cast<float>(level) / 255.0F * 2.0F - 1.0F; });
  return out;
}

Array pad_to_tile(const Array& frame, const TileSize& tile) {
  check_tile(tile);
  if (frame.dim() != 3 || frame.numel() == 0) {
    throw Error(ErrorCode::kShape,
                cat("a frame must be [H, W, C], got ", shape_string(frame.shape())));
  }
  const int64_t height = frame.size(0), width = frame.size(1);
  const int64_t out_height = std::max(height, tile.height), out_width = std::max(width, tile.width);
  if (out_height == height && out_width == width) {
    return frame;
  }
  Array out = Array::zeros(frame.dtype(), {out_height, out_width, frame.size(2)});
  const int64_t pixel_bytes = frame.size(2) * dtype_size(frame.dtype());
  std::byte* to = out.mutable_bytes();
  for (int64_t y = 0; y < out_height; ++y) {
    const std::byte* row = frame.bytes() + std::min(y, height - 1) * width * pixel_bytes;
    for (int64_t x = 0; x < out_width; ++x, to += pixel_bytes) {
      std::memcpy(to, row + std::min(x, width - 1) * pixel_bytes, static_cast<size_t>(pixel_bytes));
    }
  }
  return out;
}

Array flow_tile_patches(const Array& first, const Array& second, const Tile& at,
                        const TileSize& tile) {
  check_tile(tile);
  if (first.shape() != second.shape()) {
    throw Error(ErrorCode::kShape,
                cat("the two frames differ in size: ", shape_string(first.shape()), " and ",
                    shape_string(second.shape())));
  }
  check_holds(first, at, tile);
  constexpr int64_t kPatch = 3;
  const Array patches[2] = {extract_neighbourhoods(cut(first, at, tile), kPatch),
                            extract_neighbourhoods(cut(second, at, tile), kPatch)};
  Array out = Array::zeros(patches[0].dtype(),
                           {1, 2, tile.height, tile.width, kPatch * kPatch * first.size(2)});
  const int64_t bytes = patches[0].nbytes();
  std::memcpy(out.mutable_bytes(), patches[0].bytes(), static_cast<size_t>(bytes));
  std::memcpy(out.mutable_bytes() + bytes, patches[1].bytes(), static_cast<size_t>(bytes));
  return out;
}

Array extract_patches(const Array& images, const std::vector<int64_t>& sizes,
                      const std::vector<int64_t>& strides, const std::vector<int64_t>& rates,
                      PatchPadding padding) {
  if (images.dim() != 4 || sizes.size() != 2 || strides.size() != 2 || rates.size() != 2) {
    throw Error(ErrorCode::kShape,
                cat("patches need images [B, H, W, C] and two sizes, strides and "
                    "rates, got ",
                    shape_string(images.shape())));
  }
  const PatchAxis y = patch_axis(images.size(1), sizes[0], strides[0], rates[0], padding);
  const PatchAxis x = patch_axis(images.size(2), sizes[1], strides[1], rates[1], padding);
  const int64_t batch = images.size(0), channels = images.size(3);
  Array out = Array::zeros(images.dtype(), {batch, y.out, x.out, y.size * x.size * channels});
  const int64_t pixel_bytes = channels * dtype_size(images.dtype());
  std::byte* to = out.mutable_bytes();
  for (int64_t row = 0; row < batch * y.out; ++row) {
    const std::byte* image = images.bytes() + row / y.out * y.in * x.in * pixel_bytes;
    for (int64_t column = 0; column < x.out; ++column) {
      for (int64_t tap = 0; tap < y.size * x.size; ++tap, to += pixel_bytes) {
        const int64_t from_y = row % y.out * y.stride - y.before + tap / x.size * y.rate;
        const int64_t from_x = column * x.stride - x.before + tap % x.size * x.rate;
        if (from_y >= 0 && from_y < y.in && from_x >= 0 && from_x < x.in) {
          std::memcpy(to, image + (from_y * x.in + from_x) * pixel_bytes,
                      static_cast<size_t>(pixel_bytes));
        }
      }
    }
  }
  return out;
}

Array flow_tile_weights(const TileSize& tile) {
  check_tile(tile);
  Array out = Array::zeros(DType::kF32, {tile.height, tile.width});
  float* weights = out.mutable_data<float>();
  for (int64_t y = 0; y < tile.height; ++y) {
    for (int64_t x = 0; x < tile.width; ++x) {
      const int64_t across = std::min(x + 1, tile.width - x),
                    down = std::min(y + 1, tile.height - y);
      *weights++ = static_cast<float>(std::min(across, down));
    }
  }
  return out;
}

FlowBlender::FlowBlender(int64_t frame_height, int64_t frame_width, const TileSize& tile)
    : frame_height_(frame_height),
      frame_width_(frame_width),
      width_(std::max(frame_width, tile.width)),
      height_(std::max(frame_height, tile.height)),
      tile_(tile),
      weights_(flow_tile_weights(tile)) {
  if (frame_height < 1 || frame_width < 1) {
    throw Error(ErrorCode::kArgument,
                cat("a frame of ", frame_width, "x", frame_height, " pixels"));
  }
  const int64_t count = element_count({height_, width_, 2});
  sums_.resize(static_cast<size_t>(count));
  weight_sums_.resize(static_cast<size_t>(count / 2));
}

void FlowBlender::add(const Tile& at, const Array& flow) {
  if (flow.shape() != std::vector<int64_t>{tile_.height, tile_.width, 2} || at.y < 0 || at.x < 0 ||
      at.y + tile_.height > height_ || at.x + tile_.width > width_) {
    throw Error(ErrorCode::kShape,
                cat("a tile's flow must be [", tile_.height, ", ", tile_.width, ", 2] inside ",
                    width_, "x", height_, " pixels, got ", shape_string(flow.shape()), " at row ",
                    at.y, ", column ", at.x));
  }
  const float* values = flow.data<float>();
  const float* weights = weights_.data<float>();
  for (int64_t y = 0; y < tile_.height; ++y) {
    for (int64_t x = 0; x < tile_.width; ++x) {
      const auto to = static_cast<size_t>((at.y + y) * width_ + at.x + x);
      const int64_t from = y * tile_.width + x;
      const double weight = static_cast<double>(weights[from]) * static_cast<double>(at.count);
      sums_[2 * to] += weight * static_cast<double>(values[2 * from]);
      sums_[2 * to + 1] += weight * static_cast<double>(values[2 * from + 1]);
      weight_sums_[to] += weight;
    }
  }
}

Array FlowBlender::finish() const {
  Array out = Array::zeros(DType::kF32, {frame_height_, frame_width_, 2});
  float* flow = out.mutable_data<float>();
  for (int64_t y = 0; y < frame_height_; ++y) {
    for (int64_t x = 0; x < frame_width_; ++x) {
      const auto from = static_cast<size_t>(y * width_ + x);
      if (weight_sums_[from] <= 0.0) {
        throw Error(ErrorCode::kArgument,
                    cat("no tile covers row ", y, ", column ", x, " of the frame"));
      }
      *flow++ = static_cast<float>(sums_[2 * from] / weight_sums_[from]);
      *flow++ = static_cast<float>(sums_[2 * from + 1] / weight_sums_[from]);
    }
  }
  return out;
}

}  // namespace perceiver::tokens
