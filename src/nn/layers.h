#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "nn/products.h"
#include "perceiver/spec/model_spec.h"

// LayerNorm with the linear maps behind it, and the MLP of an attention module, each as one
// autograd function: they keep their input and what only a matrix product could make again;
// normalised rows and activations are made again backward, elementwise. Not differentiable twice.

namespace perceiver::nn {

struct NormWeights {
  at::Tensor weight, bias;  ///< [C]
  double eps = 1e-5;
};

struct LinearWeights {
  at::Tensor weight;  ///< [out, in]
  at::Tensor bias;    ///< [out]
  /// Of the products with `weight` and of their gradients; where maps go together, the first's.
  ProductOrder order = ProductOrder::kPlain;
};

/// One linear map of LayerNorm(x) per entry of `linears`. @param x [..., C] @return [..., out_i]
std::vector<at::Tensor> norm_linears(const at::Tensor& x, const NormWeights& norm,
                                     const std::vector<LinearWeights>& linears);

/// x + second(activation(first(LayerNorm(x)))). @param x [..., C] @return the same shape
at::Tensor residual_mlp(const at::Tensor& x, const NormWeights& norm, const LinearWeights& first,
                        const LinearWeights& second, Activation activation);

/// last(x + second(activation(first(LayerNorm(x))))) without ever making second's result: `last`
/// goes into both of its summands. Pays when `last` is much narrower than x and the rows are many.
/// @param x [..., C] @return [..., out of last]
at::Tensor projected_mlp(const at::Tensor& x, const NormWeights& norm, const LinearWeights& first,
                         const LinearWeights& second, const LinearWeights& last,
                         Activation activation);

/// residual + linear(attended, heads side by side). `residual` may be undefined.
/// @param attended  [B, H, O, d]  @return [B, O, out]
at::Tensor joined_linear(const at::Tensor& attended, const LinearWeights& linear,
                         const at::Tensor& residual);

at::Tensor activated(const at::Tensor& x, Activation kind);

}  // namespace perceiver::nn
