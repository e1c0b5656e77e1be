#include "perceiver/tokens/patches.h"

#include <algorithm>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tokens {
namespace {

void check_grid(const char* what, const Array& grid, const std::vector<int64_t>& factors) {
  const auto axes = static_cast<int64_t>(factors.size());
  if (grid.dim() != axes + 2) {
    throw Error(ErrorCode::kShape, cat(what, ": shape ", shape_string(grid.shape()),
                                       " must be [B, ", axes, " grid axes, channels]"));
  }
  for (const int64_t factor : factors) {
    if (factor < 1) {
      throw Error(ErrorCode::kShape,
                  cat(what, ": factors ", shape_string(factors), " must be at least 1"));
    }
  }
}

/// Copies `array`, seen as `view` (a split of its axes), with axes in the order `order`; the last
/// axis stays last and moves as one run of bytes.
Array permuted(const Array& array, const std::vector<int64_t>& view,
               const std::vector<size_t>& order, std::vector<int64_t> shape) {
  Array out = Array::zeros(array.dtype(), std::move(shape));
  if (out.numel() == 0) {
    return out;
  }
  const size_t axes = order.size();
  std::vector<int64_t> strides(view.size(), dtype_size(array.dtype()));
  for (size_t k = view.size() - 1; k-- > 0;) {
    strides[k] = strides[k + 1] * view[k + 1];
  }
  const int64_t run = view.back() * dtype_size(array.dtype());
  std::vector<int64_t> index(axes, 0);
  const std::byte* from = array.bytes();
  std::byte* to = out.mutable_bytes();
  for (int64_t left = array.nbytes(); left > 0; left -= run, to += run) {
    std::memcpy(to, from, static_cast<size_t>(run));
    for (size_t k = axes - 1; k-- > 0;) {  // odometer over all axes but the last
      from += strides[order[k]];
      if (++index[k] < view[order[k]]) {
        break;
      }
      from -= index[k] * strides[order[k]];
      index[k] = 0;
    }
  }
  return out;
}

}  // namespace

Array space_to_depth(const Array& grid, const std::vector<int64_t>& block) {
  check_grid("space_to_depth", grid, block);
  const size_t axes = block.size();
  std::vector<int64_t> view{grid.size(0)};
  std::vector<int64_t> shape{grid.size(0)};
  std::vector<size_t> order{0};
  int64_t channels = grid.size(-1);
  for (size_t k = 0; k < axes; ++k) {
    const int64_t extent = grid.shape()[k + 1];
    if (extent % block[k] != 0) {
      throw Error(ErrorCode::kShape,
                  cat("space_to_depth: axis ", k, " of ", shape_string(grid.shape()), " has ",
                      extent, " elements, not a multiple of the patch extent ", block[k]));
    }
    view.insert(view.end(), {extent / block[k], block[k]});
    shape.push_back(extent / block[k]);
    order.push_back(1 + 2 * k);
    channels *= block[k];
  }
  for (size_t k = 0; k < axes; ++k) {
    order.push_back(2 + 2 * k);
  }
  order.push_back(view.size());
  view.push_back(grid.size(-1));
  shape.push_back(channels);
  return permuted(grid, view, order, std::move(shape));
}

Array depth_to_space(const Array& grid, const std::vector<int64_t>& block) {
  check_grid("depth_to_space", grid, block);
  const size_t axes = block.size();
  const int64_t volume = element_count(block);
  if (volume == 0 || grid.size(-1) % volume != 0) {
    throw Error(ErrorCode::kShape,
                cat("depth_to_space: ", grid.size(-1), " channels are not a multiple of the block ",
                    shape_string(block)));
  }
  std::vector<int64_t> view(grid.shape().begin(), grid.shape().end() - 1);
  view.insert(view.end(), block.begin(), block.end());
  view.push_back(grid.size(-1) / volume);
  std::vector<int64_t> shape{grid.size(0)};
  std::vector<size_t> order{0};
  for (size_t k = 0; k < axes; ++k) {
    order.insert(order.end(), {1 + k, 1 + axes + k});
    shape.push_back(grid.shape()[k + 1] * block[k]);
  }
  order.push_back(view.size() - 1);
  shape.push_back(view.back());
  return permuted(grid, view, order, std::move(shape));
}

Array subsample(const Array& grid, const std::vector<int64_t>& strides) {
  check_grid("subsample", grid, strides);
  const size_t axes = strides.size();
  std::vector<int64_t> shape = grid.shape();
  std::vector<int64_t> jumps(axes + 1,
                             grid.size(-1) * dtype_size(grid.dtype()));  // bytes per element step
  for (size_t k = axes; k-- > 0;) {
    jumps[k] = jumps[k + 1] * grid.shape()[k + 1];
    shape[k + 1] = (grid.shape()[k + 1] + strides[k] - 1) / strides[k];
  }
  Array out = Array::zeros(grid.dtype(), shape);
  const int64_t run = grid.size(-1) * dtype_size(grid.dtype());
  if (out.numel() == 0) {
    return out;
  }
  std::byte* to = out.mutable_bytes();
  for (int64_t row = 0; row < out.numel() / grid.size(-1); ++row, to += run) {
    int64_t rest = row;
    int64_t offset = 0;
    for (size_t k = axes; k-- > 0;) {
      offset += rest % shape[k + 1] * strides[k] * jumps[k + 1];
      rest /= shape[k + 1];
    }
    std::memcpy(to, grid.bytes() + rest * jumps[0] + offset, static_cast<size_t>(run));
  }
  return out;
}

Array extract_neighbourhoods(const Array& frames, int64_t size) {
  if (frames.dim() < 3) {
    throw Error(ErrorCode::kShape,
                cat("extract_neighbourhoods: shape ", shape_string(frames.shape()),
                    " must end in [H, W, channels]"));
  }
  if (size < 1 || size % 2 == 0) {
    throw Error(ErrorCode::kArgument, cat("extract_neighbourhoods: size ", size, " must be odd"));
  }
  const int64_t height = frames.size(-3);
  const int64_t width = frames.size(-2);
  const int64_t run = frames.size(-1) * dtype_size(frames.dtype());
  std::vector<int64_t> shape = frames.shape();
  shape.back() = element_count({size, size, frames.size(-1)});
  Array out = Array::zeros(frames.dtype(), std::move(shape));
  if (out.numel() == 0) {
    return out;
  }
  const int64_t half = size / 2;
  const int64_t pixels = frames.numel() / frames.size(-1);
  std::byte* to = out.mutable_bytes();
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const int64_t x = pixel % width;
    const int64_t y = pixel / width % height;
    const std::byte* from = frames.bytes() + pixel * run;
    for (int64_t dy = -half; dy <= half; ++dy) {
      for (int64_t dx = -half; dx <= half; ++dx, to += run) {
        if (y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width) {
          std::memcpy(to, from + (dy * width + dx) * run, static_cast<size_t>(run));
        }
      }
    }
  }
  return out;
}

}  // namespace perceiver::tokens
