#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "tokens/resample.h"

namespace perceiver::tokens {
namespace {

constexpr int kFractionBits = 22;  // 32 minus 8 bits of pixel minus 2 of headroom for overshoot

double sinc(double x) {
  return x == 0.0 ? 1.0 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x);
}

double filter_support(ResampleFilter filter) {
  switch (filter) {
    case ResampleFilter::kBox:
      return 0.5;
    case ResampleFilter::kBilinear:
    case ResampleFilter::kHamming:
      return 1.0;
    case ResampleFilter::kBicubic:
      return 2.0;
    case ResampleFilter::kLanczos:
      return 3.0;
  }
  return 0.0;
}

/// Keys' cubic convolution kernel with a = -0.5 (IEEE ASSP 29, 1981).
double cubic(double x) {
  constexpr double kA = -0.5;
  x = std::fabs(x);
  if (x < 1.0) {
    return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  }
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * kA : 0.0;
}

double filter_value(ResampleFilter filter, double x) {
  switch (filter) {
    case ResampleFilter::kBox:
      return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case ResampleFilter::kBilinear:
      return std::max(0.0, 1.0 - std::fabs(x));
    case ResampleFilter::kHamming:
      return std::fabs(x) >= 1.0 ? 0.0 : sinc(x) * (0.54 + 0.46 * std::cos(std::numbers::pi * x));
    case ResampleFilter::kBicubic:
      return cubic(x);
    case ResampleFilter::kLanczos:
      return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
  }
  return 0.0;
}

/// Input range and fixed-point weights of one output position.
struct PilTaps {
  int64_t begin = 0;
  std::vector<int32_t> weights;
};

std::vector<PilTaps> taps_along(int64_t from, int64_t to, ResampleFilter filter) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double widening = std::max(scale, 1.0);
  const double support = filter_support(filter) * widening;
  std::vector<PilTaps> all(static_cast<size_t>(to));
  std::vector<double> weights;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const auto end = std::min(from, static_cast<int64_t>(center + support + 0.5));
    weights.clear();
    double sum = 0.0;
    for (int64_t x = begin; x < end; ++x) {
      weights.push_back(
          filter_value(filter, (static_cast<double>(x) - center + 0.5) * (1.0 / widening)));
      sum += weights.back();
    }
    PilTaps& taps = all[static_cast<size_t>(i)];
    taps.begin = begin;
    const double norm = sum == 0.0 ? 1.0 : 1.0 / sum;
    for (const double weight : weights) {
      const double scaled = weight * norm * (1 << kFractionBits);
      taps.weights.push_back(static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return all;
}

uint8_t to_byte(int32_t fixed) {
  return static_cast<uint8_t>(std::clamp(fixed >> kFractionBits, 0, 255));
}

/// One pass over [outer, from, inner]: `inner` neighbours share the taps.
void pass(const uint8_t* in, uint8_t* out, int64_t outer, int64_t from, int64_t inner,
          const std::vector<PilTaps>& taps) {
  for (int64_t o = 0; o < outer; ++o, in += from * inner) {
    for (const PilTaps& tap : taps) {
      const uint8_t* first = in + tap.begin * inner;
      for (int64_t c = 0; c < inner; ++c) {
        int32_t sum = 1 << (kFractionBits - 1);
        const uint8_t* pixel = first + c;
        for (const int32_t weight : tap.weights) {
          sum += *pixel * weight;
          pixel += inner;
        }
        *out++ = to_byte(sum);
      }
    }
  }
}

}  // namespace

Array resize_pil(const Array& image, const ImageSize& size, ResampleFilter filter) {
  const int64_t height = image.size(0), width = image.size(1), channels = image.size(2);
  Array wide = image;
  if (size.width != width) {
    wide = Array::zeros(DType::kU8, {height, size.width, channels});
    pass(image.data<uint8_t>(), wide.mutable_data<uint8_t>(), height, width, channels,
         taps_along(width, size.width, filter));
  }
  if (size.height == height) {
    return wide;
  }
  Array out = Array::zeros(DType::kU8, {size.height, size.width, channels});
  pass(wide.data<uint8_t>(), out.mutable_data<uint8_t>(), 1, height, size.width * channels,
       taps_along(height, size.height, filter));
  return out;
}

}  // namespace perceiver::tokens
