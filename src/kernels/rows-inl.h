#pragma once

#include "kernels/kernel_table.h"
#include "kernels/tile-inl.h"

// Row-wise kernels, one text for every instruction set (see tile-inl.h).

namespace perceiver::kernels {
namespace {

/// Sum over the row of f(vector). Four partial vectors: an addition takes four cycles.
template <typename F>
PERCEIVER_INLINE float sum_over_row(const float* x, int64_t width, F f) {
  V sum[4] = {};
  int64_t c = 0;
  for (; c + 4 * kLanes <= width; c += 4 * kLanes) {
    for (int n = 0; n < 4; ++n) {
      sum[n] += f(load(x + c + n * kLanes));
    }
  }
  for (; c + kLanes <= width; c += kLanes) {
    sum[0] += f(load(x + c));
  }
  if (c < width) {
    sum[1] += select(first_lanes(width - c), f(load_first(x + c, width - c)), V{});
  }
  return sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

struct Statistics {
  float mean, inverse_deviation;
};

/// Two passes and their correction: exact to a few ulp also where the mean is large.
PERCEIVER_INLINE Statistics statistics_of(const float* x, int64_t width, float eps) {
  const float n = static_cast<float>(width);
  const float first = sum_over_row(x, width, [](V v) { return v; }) / n;
  const float rest = sum_over_row(x, width, [first](V v) { return v - first; }) / n;
  const float mean = first + rest;
  const float squares = sum_over_row(x, width, [mean](V v) { return (v - mean) * (v - mean); });
  return {mean, 1 / __builtin_sqrtf(squares / n + eps)};
}

inline void row_statistics_of(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, float* mean, float* inverse_deviation) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    const Statistics statistics = statistics_of(x + r * x_stride, width, eps);
    if (mean != nullptr) {
      mean[r] = statistics.mean;
    }
    if (inverse_deviation != nullptr) {
      inverse_deviation[r] = statistics.inverse_deviation;
    }
  }
}

PERCEIVER_INLINE void normalise_part(const float* from, int64_t width, Statistics statistics,
                                     float* to) {
  const V mean = broadcast(statistics.mean);
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    store(to + c, (load(from + c) - mean) * statistics.inverse_deviation);
  }
  for (; c < width; ++c) {
    to[c] = (from[c] - statistics.mean) * statistics.inverse_deviation;
  }
}

inline void normalise_rows_of(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, const PartedRows& out) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    const float* row = x + r * x_stride;
    const Statistics statistics = statistics_of(row, width, eps);
    for (int64_t part = 0; part * out.width < width; ++part) {
      const int64_t first = part * out.width, left = width - first;
      normalise_part(row + first, left < out.width ? left : out.width, statistics,
                     out.data + part * out.step + r * out.stride);
    }
  }
}

/// The normal distribution's lower tail at -|x|, to a few ulp of the tail itself, 0 below 1e-38:
/// exp(-x^2 / 2) times a polynomial in 1 / (1 + 0.275 |x|), fitted to a relative error of 2e-8.
PERCEIVER_INLINE V normal_tail(V x) {
  const V u = max(x, -x);
  const V t = 1.0f / (u * 0.275f + 1.0f);
  V y = t * 2.246994139e-02f - 8.606943387e-02f;
  y = y * t + 7.470311393e-02f;
  y = y * t + 3.528133035e-02f;
  y = y * t + 3.261336402e-02f;
  y = y * t + 1.068342657e-01f;
  y = y * t + 9.321171367e-02f;
  y = y * t + 1.114322059e-01f;
  y = y * t + 1.095142815e-01f;
  y = y * t + 9.228811060e-06f;
  // x^2 needs more digits than a float has: the square of u's upper half is exact, and the
  // exponential of the remainder is a short series.
  const V upper = from_bits(to_bits(u) & -4096);
  const V rest = (upper - u) * (upper + u) * 0.5f;
  const V series = ((rest * 4.16666667e-2f + 1.66666667e-1f) * rest + 0.5f) * rest + 1.0f;
  return y * exp_of(upper * upper * -0.5f) * (series * rest + 1.0f);
}

PERCEIVER_INLINE V sigmoid_of(V x) {
  return 1.0f / (1.0f + exp_of(-max(broadcast(-88.0f), x)));
}

template <Activation kActivation>
PERCEIVER_INLINE V activate(V x) {
  if constexpr (kActivation == Activation::kRelu) {
    return max(V{}, x);
  } else if constexpr (kActivation == Activation::kSilu) {
    return x * sigmoid_of(x);
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    // (1 + tanh(w)) / 2 = sigmoid(2 w)
    return x * sigmoid_of(x * (x * x * 0.0713548162726f + 1.59576912160573f));
  } else {
    const V tail = x * normal_tail(x);
    return select(x > V{}, x - tail, tail);
  }
}

template <Activation kActivation>
inline void activate_all(RowRange rows, int64_t width, float* x, int64_t stride,
                         const float* bias) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    float* row = x + r * stride;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      const V v = load(row + c);
      store(row + c, activate<kActivation>(bias == nullptr ? v : v + load(bias + c)));
    }
    if (c < width) {
      const int64_t left = width - c;
      const V v = load_first(row + c, left);
      store_first(row + c,
                  activate<kActivation>(bias == nullptr ? v : v + load_first(bias + c, left)),
                  left);
    }
  }
}

inline void activate_rows_of(RowRange rows, int64_t width, float* x, int64_t stride,
                             const float* bias, Activation activation) {
  switch (activation) {
    case Activation::kGeluErf:
      return activate_all<Activation::kGeluErf>(rows, width, x, stride, bias);
    case Activation::kGeluTanh:
      return activate_all<Activation::kGeluTanh>(rows, width, x, stride, bias);
    case Activation::kRelu:
      return activate_all<Activation::kRelu>(rows, width, x, stride, bias);
    case Activation::kSilu:
      return activate_all<Activation::kSilu>(rows, width, x, stride, bias);
  }
}

}  // namespace
}  // namespace perceiver::kernels
