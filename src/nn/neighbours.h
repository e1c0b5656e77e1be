#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

// Tensors that lie beside each other in one memory, so that what reads the same rows is one product
// instead of several narrow ones. Nothing here records gradients.

namespace perceiver::nn {

/// Dense parts [n_i, ...] that lie behind each other as one [sum of n_i, ...] over their memory.
/// Undefined where they lie otherwise.
at::Tensor as_rows(at::TensorList parts);

/// Parts [rows, c_i] that are neighbouring columns of one matrix as that matrix [rows, sum of c_i].
/// Undefined where they lie otherwise.
at::Tensor as_columns(at::TensorList parts);

/// The inverse of both: dimension `dim` in parts as long as the first dimension of each of `like`,
/// in the memory of the whole.
std::vector<at::Tensor> parted(const at::Tensor& whole, at::TensorList like, int64_t dim);

/// Zeros that lie as `parts` do: in one memory where those fill one between them.
std::vector<at::Tensor> zeros_lying_as(at::TensorList parts);

}  // namespace perceiver::nn
