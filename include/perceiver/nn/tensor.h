#pragma once

#include <ATen/core/Tensor.h>

#include "perceiver/base/array.h"

namespace perceiver::nn {

/// Shares the array's memory where possible; the tensor keeps it alive. Must not be written to.
at::Tensor to_tensor(const Array& array);
/// Copies if the tensor is not contiguous on the CPU, shares otherwise.
Array to_array(const at::Tensor& tensor);
at::ScalarType to_scalar_type(DType dtype);

}  // namespace perceiver::nn
