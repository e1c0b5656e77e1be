#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace perceiver::nn {

/// A block of rows [B, n, *] of every tensor given -> [B, n, c].
using RowsFunction = std::function<at::Tensor(const std::vector<at::Tensor>& rows)>;

/// Calls `body` on blocks of rows and keeps nothing of what it made on the way: the backward pass
/// calls it again, block by block. Results do not depend on the block size beyond rounding.
/// What `body` refers to must live until the backward pass; it must not draw random numbers.
/// @param rows        tensors [B, O, *], cut along dim 1 together
/// @param parameters  every other tensor that `body` reads and that may need a gradient
/// @param block_rows  rows of one call; at least 1
/// @return            [B, O, c]
/// Cost: one more forward of `body` in the backward pass. Extra memory: one block's.
at::Tensor recompute_rows(const RowsFunction& body, const std::vector<at::Tensor>& rows,
                          const std::vector<at::Tensor>& parameters, int64_t block_rows);

}  // namespace perceiver::nn
