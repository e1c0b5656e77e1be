#include "train/data/picture_mix.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace perceiver::train {
namespace {

// Logarithm of a number from Gamma(shape, 1): Marsaglia and Tsang (2000) for shape + 1, times
// U^(1/shape). In logarithms because small shapes give numbers below the smallest double.
double draw_log_gamma(double shape, Random& random) {
  const double d = shape + 1 - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    const double normal = radius * std::cos(2 * std::numbers::pi * random.uniform());
    const double v = std::pow(1 + c * normal, 3);
    const double u = 1 - random.uniform();
    if (v > 0 && std::log(u) < normal * normal / 2 + d - d * v + d * std::log(v)) {
      return std::log(d * v) + std::log(1 - random.uniform()) / shape;
    }
  }
}

PictureMix draw_cut(const PictureSize& size, Random& random) {
  const int64_t y = random.below(size.height);
  const int64_t x = random.below(size.width);
  const double side = std::sqrt(1 - random.uniform());
  const auto high = static_cast<int64_t>(side * static_cast<double>(size.height));
  const auto wide = static_cast<int64_t>(side * static_cast<double>(size.width));
  PictureMix mix;
  mix.is_cut = true;
  mix.box.top = std::max<int64_t>(0, y - high / 2);
  mix.box.left = std::max<int64_t>(0, x - wide / 2);
  mix.box.height = std::min(size.height, y - high / 2 + high) - mix.box.top;
  mix.box.width = std::min(size.width, x - wide / 2 + wide) - mix.box.left;
  mix.weight = 1 - static_cast<double>(mix.box.height * mix.box.width) /
                       static_cast<double>(size.height * size.width);
  return mix;
}

}  // namespace

double draw_beta(double alpha, Random& random) {
  const double one = draw_log_gamma(alpha, random);
  const double other = draw_log_gamma(alpha, random);
  return 1 / (1 + std::exp(other - one));
}

PictureMix draw_mix(const PictureMixSpec& spec, const PictureSize& size, int64_t example,
                    Random& random) {
  const bool cut = spec.cutmix && (spec.mixup_alpha == 0 || example % 2 == 1);
  if (cut) {
    return draw_cut(size, random);
  }
  PictureMix mix;
  mix.weight = draw_beta(spec.mixup_alpha, random);
  return mix;
}

void mix(const PictureMix& mix, const PictureSize& size, const float* second, float* first) {
  const int64_t row = size.width * size.channels;
  if (!mix.is_cut) {
    const auto weight = static_cast<float>(mix.weight);
    for (int64_t i = 0; i < size.height * row; ++i) {
      first[i] = weight * first[i] + (1 - weight) * second[i];
    }
    return;
  }
  for (int64_t y = mix.box.top; y < mix.box.top + mix.box.height; ++y) {
    const int64_t begin = y * row + mix.box.left * size.channels;
    std::copy_n(second + begin, mix.box.width * size.channels, first + begin);
  }
}

}  // namespace perceiver::train
