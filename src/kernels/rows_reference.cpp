#include "kernels/rows_reference.h"

#include <cmath>
#include <numbers>

namespace perceiver::kernels {
namespace {

struct Statistics {
  double mean, inverse_deviation;
};

Statistics statistics_of(const float* x, int64_t width, double eps) {
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < width; ++c) {
    sum += static_cast<double>(x[c]);
  }
  const double mean = sum / static_cast<double>(width);
  for (int64_t c = 0; c < width; ++c) {
    const double deviation = static_cast<double>(x[c]) - mean;
    squares += deviation * deviation;
  }
  return {mean, 1 / std::sqrt(squares / static_cast<double>(width) + eps)};
}

}  // namespace

void row_statistics_reference(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, float* mean, float* inverse_deviation) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    const Statistics statistics = statistics_of(x + r * x_stride, width, static_cast<double>(eps));
    if (mean != nullptr) {
      mean[r] = static_cast<float>(statistics.mean);
    }
    if (inverse_deviation != nullptr) {
      inverse_deviation[r] = static_cast<float>(statistics.inverse_deviation);
    }
  }
}

void normalise_rows_reference(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, const PartedRows& out) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    const Statistics statistics = statistics_of(x + r * x_stride, width, static_cast<double>(eps));
    for (int64_t c = 0; c < width; ++c) {
      const double deviation = static_cast<double>(x[r * x_stride + c]) - statistics.mean;
      const int64_t part = c / out.width;
      out.data[part * out.step + r * out.stride + c - part * out.width] =
          static_cast<float>(deviation * statistics.inverse_deviation);
    }
  }
}

double activation_reference(double x, Activation activation) {
  switch (activation) {
    case Activation::kGeluErf:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Activation::kGeluTanh: {
      const double w = std::sqrt(2.0) * std::numbers::inv_sqrtpi * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * w));
    }
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

void activate_rows_reference(RowRange rows, int64_t width, float* x, int64_t stride,
                             const float* bias, Activation activation) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      float& at = x[r * stride + c];
      const double biased =
          static_cast<double>(at) + (bias == nullptr ? 0 : static_cast<double>(bias[c]));
      at = static_cast<float>(activation_reference(biased, activation));
    }
  }
}

}  // namespace perceiver::kernels
