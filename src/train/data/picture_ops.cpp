#include "train/data/picture_ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

namespace perceiver::train {
namespace {

constexpr uint8_t kGrey = 128;

using Table = std::array<uint8_t, 256>;
using Histogram = std::array<int64_t, 256>;

uint8_t to_byte(double value) {
  return static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
}

template <typename Function>
Array map_values(const Array& picture, const Function& function) {
  Array out = Array::zeros(DType::kU8, picture.shape());
  const uint8_t* from = picture.data<uint8_t>();
  std::transform(from, from + picture.numel(), out.mutable_data<uint8_t>(), function);
  return out;
}

// Every channel through a table made from its own histogram.
Array map_channels(const Array& picture, Table (*table_of)(const Histogram&)) {
  const int64_t channels = picture.size(2);
  const uint8_t* from = picture.data<uint8_t>();
  Array out = Array::zeros(DType::kU8, picture.shape());
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t channel = 0; channel < channels; ++channel) {
    Histogram histogram{};
    for (int64_t i = channel; i < picture.numel(); i += channels) {
      ++histogram[from[i]];
    }
    const Table table = table_of(histogram);
    for (int64_t i = channel; i < picture.numel(); i += channels) {
      to[i] = table[from[i]];
    }
  }
  return out;
}

Table identity() {
  Table table{};
  std::iota(table.begin(), table.end(), uint8_t{0});
  return table;
}

Table stretching(const Histogram& histogram) {
  const auto used = [](int64_t count) { return count > 0; };
  const auto low = std::find_if(histogram.begin(), histogram.end(), used) - histogram.begin();
  const auto high =
      255 - (std::find_if(histogram.rbegin(), histogram.rend(), used) - histogram.rbegin());
  if (high <= low) {
    return identity();
  }
  Table table{};
  for (int64_t v = 0; v < 256; ++v) {
    table[static_cast<size_t>(v)] =
        to_byte(static_cast<double>(v - low) * 255.0 / static_cast<double>(high - low));
  }
  return table;
}

// PIL's: the last used level is left out of the step, so that it lands on 255.
Table flattening(const Histogram& histogram) {
  const int64_t total = std::accumulate(histogram.begin(), histogram.end(), int64_t{0});
  const auto last =
      std::find_if(histogram.rbegin(), histogram.rend(), [](int64_t count) { return count > 0; });
  const int64_t step = (total - *last) / 255;
  if (step == 0) {
    return identity();
  }
  Table table{};
  int64_t below = step / 2;
  for (size_t v = 0; v < 256; ++v) {
    table[v] = static_cast<uint8_t>(std::min<int64_t>(below / step, 255));
    below += histogram[v];
  }
  return table;
}

double lightness(const uint8_t* pixel, int64_t channels) {
  return channels == 1 ? pixel[0] : 0.2989 * pixel[0] + 0.5870 * pixel[1] + 0.1140 * pixel[2];
}

// degenerate(i) is what a factor of 0 would leave of value i.
template <typename Degenerate>
Array blend(const Array& picture, double factor, const Degenerate& degenerate) {
  Array out = Array::zeros(DType::kU8, picture.shape());
  const uint8_t* from = picture.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t i = 0; i < picture.numel(); ++i) {
    const double base = degenerate(i);
    to[i] = to_byte(base + factor * (from[i] - base));
  }
  return out;
}

Array color(const Array& picture, double factor) {
  const int64_t channels = picture.size(2);
  const uint8_t* from = picture.data<uint8_t>();
  return blend(picture, factor, [&](int64_t i) {
    return std::round(lightness(from + i / channels * channels, channels));
  });
}

// The mean lightness, as in PIL.
Array contrast(const Array& picture, double factor) {
  const int64_t channels = picture.size(2);
  const uint8_t* from = picture.data<uint8_t>();
  double sum = 0;
  for (int64_t i = 0; i < picture.numel(); i += channels) {
    sum += lightness(from + i, channels);
  }
  const double mean = std::round(sum / static_cast<double>(picture.numel() / channels));
  return blend(picture, factor, [&](int64_t) { return mean; });
}

Array sharpness(const Array& picture, double factor) {
  const int64_t height = picture.size(0);
  const int64_t row = picture.size(1) * picture.size(2);
  const int64_t channels = picture.size(2);
  const uint8_t* from = picture.data<uint8_t>();
  return blend(picture, factor, [&](int64_t i) -> double {
    const int64_t y = i / row;
    const int64_t x = i % row / channels;
    if (y == 0 || x == 0 || y + 1 == height || x + 1 == picture.size(1)) {
      return from[i];
    }
    int64_t sum = 4 * from[i];
    for (int64_t dy = -1; dy <= 1; ++dy) {
      for (int64_t dx = -1; dx <= 1; ++dx) {
        sum += from[i + dy * row + dx * channels];
      }
    }
    return std::round(static_cast<double>(sum) / 13);
  });
}

// Output point (x, y) is read at (xx x + xy y + x0, yx x + yy y + y0).
struct Affine {
  double xx = 1, xy = 0, x0 = 0, yx = 0, yy = 1, y0 = 0;
};

Array transform(const Array& picture, const Affine& map) {
  const int64_t height = picture.size(0);
  const int64_t width = picture.size(1);
  const int64_t channels = picture.size(2);
  Array out = Array::zeros(DType::kU8, picture.shape());
  const uint8_t* from = picture.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t row = 0; row < height; ++row) {
    const auto y = static_cast<double>(row);
    for (int64_t column = 0; column < width; ++column, to += channels) {
      const auto x = static_cast<double>(column);
      const auto at_x = static_cast<int64_t>(std::lround(map.xx * x + map.xy * y + map.x0));
      const auto at_y = static_cast<int64_t>(std::lround(map.yx * x + map.yy * y + map.y0));
      if (at_x >= 0 && at_y >= 0 && at_x < width && at_y < height) {
        std::copy_n(from + (at_y * width + at_x) * channels, channels, to);
      } else {
        std::fill_n(to, channels, kGrey);
      }
    }
  }
  return out;
}

Affine rotation(const Array& picture, double degrees) {
  const double c = std::cos(degrees * std::numbers::pi / 180);
  const double s = std::sin(degrees * std::numbers::pi / 180);
  const double x = static_cast<double>(picture.size(1) - 1) / 2;
  const double y = static_cast<double>(picture.size(0) - 1) / 2;
  return {.xx = c, .xy = -s, .x0 = x - c * x + s * y, .yx = s, .yy = c, .y0 = y - s * x - c * y};
}

Array cutout(const Array& picture, const PictureOpArguments& arguments) {
  const auto half = static_cast<int64_t>(arguments.amount);
  const int64_t width = picture.size(1);
  const int64_t channels = picture.size(2);
  Array out = picture.clone();
  uint8_t* to = out.mutable_data<uint8_t>();
  const int64_t left = std::max<int64_t>(0, arguments.column - half);
  const int64_t right = std::min(width, arguments.column + half);
  for (int64_t y = std::max<int64_t>(0, arguments.row - half);
       y < std::min(picture.size(0), arguments.row + half); ++y) {
    std::fill(to + (y * width + left) * channels, to + (y * width + right) * channels, kGrey);
  }
  return out;
}

}  // namespace

Array apply(PictureOp op, const Array& picture, const PictureOpArguments& arguments) {
  const double amount = arguments.amount;
  const auto level = static_cast<int>(amount);
  switch (op) {
    case PictureOp::kAutoContrast:
      return map_channels(picture, stretching);
    case PictureOp::kEqualize:
      return map_channels(picture, flattening);
    case PictureOp::kInvert:
      return map_values(picture, [](uint8_t v) { return static_cast<uint8_t>(255 - v); });
    case PictureOp::kRotate:
      return transform(picture, rotation(picture, amount));
    case PictureOp::kPosterize:
      return map_values(picture, [level](uint8_t v) {
        return static_cast<uint8_t>(v >> (8 - level) << (8 - level));
      });
    case PictureOp::kSolarize:
      return map_values(
          picture, [level](uint8_t v) { return v < level ? v : static_cast<uint8_t>(255 - v); });
    case PictureOp::kColor:
      return color(picture, amount);
    case PictureOp::kContrast:
      return contrast(picture, amount);
    case PictureOp::kBrightness:
      return blend(picture, amount, [](int64_t) { return 0.0; });
    case PictureOp::kSharpness:
      return sharpness(picture, amount);
    case PictureOp::kShearX:
      return transform(picture, {.xy = amount});
    case PictureOp::kShearY:
      return transform(picture, {.yx = amount});
    case PictureOp::kTranslateX:
      return transform(picture, {.x0 = -amount});
    case PictureOp::kTranslateY:
      return transform(picture, {.y0 = -amount});
    case PictureOp::kCutout:
      return cutout(picture, arguments);
    case PictureOp::kSolarizeAdd:
      return map_values(picture, [level](uint8_t v) {
        return v < kGrey ? static_cast<uint8_t>(std::min(v + level, 255)) : v;
      });
  }
  return picture;
}

}  // namespace perceiver::train
