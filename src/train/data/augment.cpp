#include "train/data/augment.h"

#include <cmath>
#include <numbers>

namespace perceiver::train {
namespace {

// Output point (x, y) about the centre is read at (xx x + xy y + dx, yx x + yy y + dy).
struct Affine {
  double xx = 1, xy = 0, yx = 0, yy = 1, dx = 0, dy = 0;
};

Affine draw(const AugmentSpec& spec, Random& random) {
  const double angle = random.uniform(-spec.rotation, spec.rotation) * std::numbers::pi / 180;
  const double scale_x = 1 / (1 + random.uniform(-spec.scale, spec.scale));
  const double scale_y = 1 / (1 + random.uniform(-spec.scale, spec.scale));
  const double shear = random.uniform(-spec.shear, spec.shear);
  Affine map;
  const double c = std::cos(angle);
  const double s = std::sin(angle);
  map.xx = scale_x * c;
  map.xy = scale_x * (shear * c - s);
  map.yx = scale_y * s;
  map.yy = scale_y * (shear * s + c);
  map.dx = random.uniform(-spec.shift, spec.shift);
  map.dy = random.uniform(-spec.shift, spec.shift);
  return map;
}

double pixel(const PictureSize& size, const uint8_t* in, int64_t y, int64_t x, int64_t channel) {
  if (y < 0 || x < 0 || y >= size.height || x >= size.width) {
    return 0;
  }
  return in[(y * size.width + x) * size.channels + channel];
}

}  // namespace

void augment(const AugmentSpec& spec, const PictureSize& size, Random& random, const uint8_t* in,
             float* out) {
  const int64_t count = size.height * size.width * size.channels;
  if (spec.shift == 0 && spec.rotation == 0 && spec.scale == 0 && spec.shear == 0) {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<float>(in[i]);
    }
    return;
  }
  const Affine map = draw(spec, random);
  const double middle_y = static_cast<double>(size.height - 1) / 2;
  const double middle_x = static_cast<double>(size.width - 1) / 2;
  for (int64_t row = 0; row < size.height; ++row) {
    for (int64_t column = 0; column < size.width; ++column) {
      const double x = static_cast<double>(column) - middle_x;
      const double y = static_cast<double>(row) - middle_y;
      const double from_x = map.xx * x + map.xy * y + map.dx + middle_x;
      const double from_y = map.yx * x + map.yy * y + map.dy + middle_y;
      const auto x0 = static_cast<int64_t>(std::floor(from_x));
      const auto y0 = static_cast<int64_t>(std::floor(from_y));
      const double fx = from_x - static_cast<double>(x0);
      const double fy = from_y - static_cast<double>(y0);
      for (int64_t channel = 0; channel < size.channels; ++channel) {
        const double top =
            (1 - fx) * pixel(size, in, y0, x0, channel) + fx * pixel(size, in, y0, x0 + 1, channel);
        const double bottom = (1 - fx) * pixel(size, in, y0 + 1, x0, channel) +
                              fx * pixel(size, in, y0 + 1, x0 + 1, channel);
        *out++ = static_cast<float>((1 - fy) * top + fy * bottom);
      }
    }
  }
}

}  // namespace perceiver::train
