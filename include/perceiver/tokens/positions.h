#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

// Fourier position features (reference: architecture.md section 4). Features of one point, in
// order:
//   [x_0 .. x_{d-1}] if concat_pos,
//   sin(pi x_k f_{k,j}) for every axis k and band j, axis by axis,
//   cos(pi x_k f_{k,j}) likewise unless sine_only,
// with f_{k,j} = linspace(1, max_resolution_k / 2, num_bands).
// Tables come in F64 (exact) or F32. F32 follows the originals' order of operations,
// sin(pi * (x * f)), every step rounded to float, because at audio's top band (pi * 15360) one
// rounding more or less is visible in the logits.

namespace perceiver::tokens {

/// Channels of the features of a `dims`-dimensional point.
int64_t fourier_channels(const PositionSpec& position, int64_t dims);

/// Coordinates of the n points of one axis; an axis of one point lies at -1.
std::vector<double> axis_coordinates(int64_t n, AxisGrid grid);

/// The per-axis form: a grid's features are sums of nothing and products of nothing, every channel
/// depends on one coordinate only. `axes[k]` is [n_k, channels_per_axis] = [x | sin... | cos...]
/// (x only if concat_pos, cos unless sine_only).
struct SeparablePositions {
  std::vector<int64_t> index_dims;
  bool concat_pos = true;
  bool sine_only = false;
  int64_t num_bands = 0;
  std::vector<Array> axes;

  /// The released models' dense order: [prod(index_dims), fourier_channels].
  Array dense() const;
  /// Rows of dense() for flat row-major indices, without building the rest.
  Array rows(const std::vector<int64_t>& flat_indices) const;
};

/// @param dtype  kF32 or kF64
/// @throws Error(kArgument) if max_resolution has another number of axes than index_dims
SeparablePositions fourier_grid(const PositionSpec& position,
                                const std::vector<int64_t>& index_dims, AxisGrid grid, DType dtype);

/// Features of arbitrary coordinates.
/// @param coordinates  [..., d] F32 or F64
/// @return             [..., fourier_channels], same dtype
Array fourier_features(const PositionSpec& position, const Array& coordinates);

}  // namespace perceiver::tokens
