#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/token_source.h"
#include "runtime/weights.h"

namespace perceiver::runtime {

/// Heads that need the whole grid (depth to space, transposed convolutions, convex upsampling), the
/// divisor, and the shape the output promises.
/// @param rows   [B, O, c] F32
/// @param grid   of the rows, when `whole`
/// @param cache  keeps the heads' packed linears between calls; null = nothing is kept
/// @throws Error(kArgument) naming the output if a grid head is asked for some rows only
Array shape_output(const Weights& weights, const OutputSpec& output,
                   const std::vector<int64_t>& grid, bool whole, Array rows,
                   SourceCache* cache = nullptr);

}  // namespace perceiver::runtime
