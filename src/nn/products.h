#pragma once

#include <ATen/core/Tensor.h>

#include "perceiver/kernels/strassen.h"
#include "perceiver/spec/plan.h"

// Matrix products of the layers over latents: LibTorch's, or seven products of quarters for eight
// where those gain (float32 on the CPU, wide enough). No gradients: the autograd functions that
// multiply have their own.

namespace perceiver::nn {

using kernels::ProductOrder;

/// Textbook asks for everything as defined.
inline ProductOrder product_order(Plan wanted) {
  return wanted == Plan::kTextbook ? ProductOrder::kPlain : ProductOrder::kSeven;
}

/// a b + bias. @param a [m, k]  @param b [k, n]  @param bias [n] or undefined  @return [m, n]
at::Tensor multiply(const at::Tensor& a, const at::Tensor& b, ProductOrder order,
                    const at::Tensor& bias = {});

/// sum += a b. @param sum [m, n], dense
void add_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, ProductOrder order);

}  // namespace perceiver::nn
