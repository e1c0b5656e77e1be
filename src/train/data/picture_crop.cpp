#include "train/data/picture_crop.h"

#include <algorithm>
#include <cmath>

namespace perceiver::train {

CropBox draw_crop(const RandomCropSpec& spec, int64_t height, int64_t width, Random& random) {
  const double whole = static_cast<double>(height) * static_cast<double>(width);
  for (int64_t i = 0; i < spec.tries; ++i) {
    const double area = whole * random.uniform(spec.min_area, spec.max_area);
    const double aspect =
        std::exp(random.uniform(std::log(spec.min_aspect), std::log(spec.max_aspect)));
    const auto high = static_cast<int64_t>(std::lround(std::sqrt(area / aspect)));
    const auto wide = static_cast<int64_t>(std::lround(std::sqrt(area * aspect)));
    if (high >= 1 && wide >= 1 && high <= height && wide <= width) {
      const int64_t top = random.below(height - high + 1);
      return {top, random.below(width - wide + 1), high, wide};
    }
  }
  return {0, 0, height, width};
}

Array crop(const Array& picture, const CropBox& box) {
  const int64_t width = picture.size(1);
  const int64_t channels = picture.size(2);
  Array out = Array::zeros(DType::kU8, {box.height, box.width, channels});
  const uint8_t* from = picture.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t y = 0; y < box.height; ++y) {
    const uint8_t* row = from + ((box.top + y) * width + box.left) * channels;
    to = std::copy_n(row, box.width * channels, to);
  }
  return out;
}

Array mirrored(const Array& picture) {
  const int64_t width = picture.size(1);
  const int64_t channels = picture.size(2);
  Array out = Array::zeros(DType::kU8, picture.shape());
  const uint8_t* from = picture.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t y = 0; y < picture.size(0); ++y, from += width * channels) {
    for (int64_t x = width - 1; x >= 0; --x) {
      to = std::copy_n(from + x * channels, channels, to);
    }
  }
  return out;
}

void shift(int64_t height, int64_t width, int64_t channels, int64_t down, int64_t right,
           float* values) {
  const std::vector<float> before(values, values + height * width * channels);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x, values += channels) {
      const int64_t from_y = y - down;
      const int64_t from_x = x - right;
      const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
      if (inside) {
        std::copy_n(before.begin() + (from_y * width + from_x) * channels, channels, values);
      } else {
        std::fill_n(values, channels, 0.0F);
      }
    }
  }
}

}  // namespace perceiver::train
