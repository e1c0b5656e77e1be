#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "perceiver/base/error.h"
#include "tokens/resample.h"

// Resizing without antialiasing: every output pixel mixes the 2 or 4 nearest input pixels per axis.
namespace perceiver::tokens {
namespace {

constexpr int kMaxTaps = 4;

template <typename Weight>
struct Taps {
  std::array<int64_t, kMaxTaps> at{};
  std::array<Weight, kMaxTaps> weight{};
};

/// Weights of the pixels at offsets -1, 0, 1, 2 (cubic) or 0, 1 (linear) around fraction `t`.
std::vector<double> weights_at(double t, ResampleFilter filter, double a) {
  if (filter == ResampleFilter::kBilinear) {
    return {1.0 - t, t};
  }
  const auto far = [a](double x) { return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a; };
  const auto near = [a](double x) { return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0; };
  return {far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)};
}

void check_filter(ResampleFilter filter) {
  if (filter != ResampleFilter::kBilinear && filter != ResampleFilter::kBicubic) {
    throw Error(ErrorCode::kUnsupported,
                "resizing without antialiasing has only the bilinear and bicubic filters");
  }
}

struct Position {
  int64_t first;  ///< leftmost tap, may lie outside
  double fraction;
};

Position position_of(int64_t i, int64_t from, int64_t to, ResampleFilter filter) {
  const double x =
      (static_cast<double>(i) + 0.5) * (static_cast<double>(from) / static_cast<double>(to)) - 0.5;
  const double floor = std::floor(x);
  const int64_t lead = filter == ResampleFilter::kBicubic ? 1 : 0;
  return {static_cast<int64_t>(floor) - lead, x - floor};
}

std::vector<Taps<int32_t>> opencv_taps(int64_t from, int64_t to, ResampleFilter filter) {
  constexpr double kOne = 2048.0, kOpenCvA = -0.75;
  std::vector<Taps<int32_t>> all(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const Position position = position_of(i, from, to, filter);
    // OpenCV holds the fraction in single precision.
    const auto fraction = static_cast<double>(static_cast<float>(position.fraction));
    const std::vector<double> weights = weights_at(fraction, filter, kOpenCvA);
    for (size_t k = 0; k < weights.size(); ++k) {
      Taps<int32_t>& taps = all[static_cast<size_t>(i)];
      taps.at[k] = std::clamp<int64_t>(position.first + static_cast<int64_t>(k), 0, from - 1);
      taps.weight[k] = static_cast<int32_t>(std::nearbyint(weights[k] * kOne));
    }
  }
  return all;
}

std::vector<Taps<float>> tensorflow_taps(int64_t from, int64_t to, ResampleFilter filter) {
  constexpr double kKeysA = -0.5;
  std::vector<Taps<float>> all(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    const Position position = position_of(i, from, to, filter);
    const std::vector<double> weights = weights_at(position.fraction, filter, kKeysA);
    const bool drop_outside = filter == ResampleFilter::kBicubic;  // bilinear repeats the edge
    double sum = 0.0;
    const auto inside = [&](size_t k) {
      const int64_t at = position.first + static_cast<int64_t>(k);
      return !drop_outside || (at >= 0 && at < from);
    };
    for (size_t k = 0; k < weights.size(); ++k) {
      sum += inside(k) ? weights[k] : 0.0;
    }
    Taps<float>& taps = all[static_cast<size_t>(i)];
    for (size_t k = 0; k < weights.size(); ++k) {
      taps.at[k] = std::clamp<int64_t>(position.first + static_cast<int64_t>(k), 0, from - 1);
      taps.weight[k] = inside(k) ? static_cast<float>(weights[k] / sum) : 0.0F;
    }
  }
  return all;
}

/// Width pass of one row of pixels into `out` [to, channels].
template <typename Weight>
void mix_row(const uint8_t* row, int64_t channels, const std::vector<Taps<Weight>>& columns,
             Weight* out) {
  for (const Taps<Weight>& taps : columns) {
    for (int64_t c = 0; c < channels; ++c) {
      Weight sum = 0;
      for (size_t k = 0; k < kMaxTaps; ++k) {
        sum += static_cast<Weight>(row[taps.at[k] * channels + c]) * taps.weight[k];
      }
      *out++ = sum;
    }
  }
}

/// Both passes without rounding between them; `store(index, rows, weights)` finishes one value.
template <typename Weight, typename Store>
void resize_plain(const Array& image, const ImageSize& size,
                  const std::vector<Taps<Weight>>& columns, const std::vector<Taps<Weight>>& rows,
                  const Store& store) {
  const int64_t width = image.size(1), channels = image.size(2), row_values = size.width * channels;
  std::array<std::vector<Weight>, kMaxTaps> mixed;
  for (auto& row : mixed) {
    row.resize(static_cast<size_t>(row_values));
  }
  int64_t index = 0;
  for (const Taps<Weight>& taps : rows) {
    for (size_t k = 0; k < kMaxTaps; ++k) {
      mix_row(image.data<uint8_t>() + taps.at[k] * width * channels, channels, columns,
              mixed[k].data());
    }
    for (size_t i = 0; i < static_cast<size_t>(row_values); ++i) {
      const std::array<Weight, kMaxTaps> values{mixed[0][i], mixed[1][i], mixed[2][i], mixed[3][i]};
      store(index++, values, taps.weight);
    }
  }
}

}  // namespace

Array resize_opencv(const Array& image, const ImageSize& size, ResampleFilter filter) {
  check_filter(filter);
  Array out = Array::zeros(DType::kU8, {size.height, size.width, image.size(2)});
  uint8_t* bytes = out.mutable_data<uint8_t>();
  const bool linear = filter == ResampleFilter::kBilinear;
  resize_plain<int32_t>(
      image, size, opencv_taps(image.size(1), size.width, filter),
      opencv_taps(image.size(0), size.height, filter),
      [&](int64_t index, const auto& values, const auto& weights) {
        int32_t value = 0;
        if (linear) {  // OpenCV drops low bits before the vertical pass to stay in 16-bit products
          const auto part = [&](size_t k) { return weights[k] * (values[k] >> 4) >> 16; };
          value = (part(0) + part(1) + 2) >> 2;
        } else {
          int32_t sum = 1 << 21;
          for (size_t k = 0; k < kMaxTaps; ++k) {
            sum += values[k] * weights[k];
          }
          value = sum >> 22;
        }
        bytes[index] = static_cast<uint8_t>(std::clamp(value, 0, 255));
      });
  return out;
}

Array resize_tensorflow(const Array& image, const ImageSize& size, ResampleFilter filter) {
  check_filter(filter);
  Array out = Array::zeros(DType::kF32, {size.height, size.width, image.size(2)});
  float* values_out = out.mutable_data<float>();
  resize_plain<float>(image, size, tensorflow_taps(image.size(1), size.width, filter),
                      tensorflow_taps(image.size(0), size.height, filter),
                      [&](int64_t index, const auto& values, const auto& weights) {
                        float sum = 0.0F;
                        for (size_t k = 0; k < kMaxTaps; ++k) {
                          sum += values[k] * weights[k];
                        }
                        values_out[index] = sum;
                      });
  return out;
}

}  // namespace perceiver::tokens
