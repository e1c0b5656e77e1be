#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"

// Rearrangements without weights, channels last, on grids of any number of axes and any dtype
// (reference: architecture.md sections 6 and 8).

namespace perceiver::tokens {

/// Moves blocks of the grid into channels, ordered (d0, d1, ..., c) with c fastest.
/// @param grid   [B, n_0, n_1, ..., c]
/// @param block  extents b_k, each a divisor of n_k
/// @return       [B, n_0/b_0, n_1/b_1, ..., b_0 b_1 ... c]
/// @throws Error(kShape) naming the axis and both values
Array space_to_depth(const Array& grid, const std::vector<int64_t>& block);

/// The inverse: [B, n_0, n_1, ..., b_0 b_1 ... c] -> [B, n_0 b_0, n_1 b_1, ..., c].
/// @throws Error(kShape) if the block's volume does not divide the channels
Array depth_to_space(const Array& grid, const std::vector<int64_t>& block);

/// Every stride-th element along each axis, beginning with the first:
/// [B, n_0, ..., c] -> [B, ceil(n_0 / s_0), ..., c].
/// @throws Error(kShape)
Array subsample(const Array& grid, const std::vector<int64_t>& strides);

/// The `size` x `size` surroundings of every pixel, zeros beyond the border, channels ordered
/// (ph, pw, c): what the optical-flow model reads, with size 3, of each normalised frame.
/// @param frames  F32 or F64 [..., H, W, c]
/// @param size    odd
/// @return        [..., H, W, size * size * c]
/// @throws Error(kShape), Error(kArgument)
Array extract_neighbourhoods(const Array& frames, int64_t size);

}  // namespace perceiver::tokens
