#pragma once

#include <cstdint>

// Row-wise pieces around the matrix products. Statistics are float32 (docs/plans.md: precision).

namespace perceiver::kernels {

enum class Activation { kGeluErf, kGeluTanh, kRelu, kSilu };

/// out = (x - mean) / sqrt(variance + eps) per row of `width`; the affine part is folded into the
/// next weight. out may be x.
void normalise_rows(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    float* out, int64_t out_stride, int threads = 0);

/// Rows whose columns lie in parts of `width`: column c of row r is
/// data[c / width * step + r * stride + c % width].
struct PartedRows {
  float* data;
  int64_t stride, width, step;
};

/// The same with the result in parts.
void normalise_rows(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    const PartedRows& out, int threads = 0);

/// Mean and 1 / sqrt(variance + eps) of each row.
void row_statistics(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    float* mean, float* inverse_deviation, int threads = 0);

/// x = activation(x + bias) in place; bias [width] or null.
void activate_rows(int64_t rows, int64_t width, float* x, int64_t stride, const float* bias,
                   Activation activation, int threads = 0);

}  // namespace perceiver::kernels
