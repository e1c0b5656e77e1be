#include "nn/layers.h"

#include <algorithm>
#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "nn/neighbours.h"
#include "perceiver/base/error.h"

namespace perceiver::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// [..., C] -> [rows, C].
at::Tensor flat(const at::Tensor& x) {
  return x.reshape({-1, x.size(-1)});
}

std::vector<int64_t> with_width(const at::Tensor& like, int64_t width) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape.back() = width;
  return shape;
}

struct Normed {
  at::Tensor x, mean, reciprocal;  ///< normalised rows, statistics [rows, 1]
};

Normed normalise(const at::Tensor& rows, const at::Tensor& weight, const at::Tensor& bias,
                 double eps) {
  auto [x, mean, reciprocal] = at::native_layer_norm(rows, {rows.size(1)}, weight, bias, eps);
  return {x, mean, reciprocal};
}

/// Gradients of x, weight and bias.
std::array<at::Tensor, 3> normalise_backward(const at::Tensor& grad, const at::Tensor& rows,
                                             const Normed& normed, const at::Tensor& weight,
                                             const at::Tensor& bias) {
  auto [dx, dweight, dbias] = at::native_layer_norm_backward(
      grad, rows, {rows.size(1)}, normed.mean, normed.reciprocal, weight, bias,
      {true, weight.requires_grad(), bias.requires_grad()});
  return {dx, dweight, dbias};
}

/// Adds grad . weight to `sum`, or makes it.
void add_input_grad(const at::Tensor& grad, const LinearWeights& linear, at::Tensor& sum) {
  if (sum.defined()) {
    add_product(sum, grad, linear.weight, linear.order);
  } else {
    sum = multiply(grad, linear.weight, linear.order);
  }
}

struct LinearGrads {
  at::Tensor weight, bias;
};

LinearGrads linear_grads(const at::Tensor& grad, const at::Tensor& x, const LinearWeights& of) {
  return {of.weight.requires_grad() ? multiply(grad.t(), x, of.order) : at::Tensor(),
          of.bias.requires_grad() ? grad.sum({0}) : at::Tensor()};
}

/// rows W^T + bias.
at::Tensor apply_linear(const at::Tensor& rows, const LinearWeights& linear) {
  return multiply(rows, linear.weight.t(), linear.order, linear.bias);
}

at::Tensor activate_(at::Tensor x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return at::gelu_(x, "none");
    case Activation::kGeluTanh:
      return at::gelu_(x, "tanh");
    case Activation::kRelu:
      return at::relu_(x);
    case Activation::kSilu:
      return at::silu_(x);
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

at::Tensor activate_backward(const at::Tensor& grad, const at::Tensor& x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return at::gelu_backward(grad, x, "none");
    case Activation::kGeluTanh:
      return at::gelu_backward(grad, x, "tanh");
    case Activation::kRelu:
      return at::threshold_backward(grad, x, 0);
    case Activation::kSilu:
      return at::silu_backward(grad, x);
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

bool any_needs_grad(std::initializer_list<at::Tensor> tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined() && tensor.requires_grad()) {
      return at::GradMode::is_enabled();
    }
  }
  return false;
}

struct MapTensors {
  std::vector<at::Tensor> weights, biases;
};

MapTensors tensors_of(const std::vector<LinearWeights>& linears) {
  MapTensors tensors;
  for (const LinearWeights& linear : linears) {
    tensors.weights.push_back(linear.weight);
    tensors.biases.push_back(linear.bias);
  }
  return tensors;
}

/// Several maps as one, weights and biases below each other: where they lie so or, with `copy`,
/// anywhere. That pays on a GPU, where the few rows of latents leave most of it idle in each of
/// several products. Without a weight where they stay several.
LinearWeights joined_maps(const std::vector<LinearWeights>& linears, bool copy) {
  const MapTensors of = tensors_of(linears);
  if (copy) {
    return {at::cat(of.weights), at::cat(of.biases), linears[0].order};
  }
  const LinearWeights all{as_rows(of.weights), as_rows(of.biases), linears[0].order};
  return all.bias.defined() ? all : LinearWeights{};
}

/// @param copy  as joined_maps() says
std::vector<at::Tensor> norm_linears_forward(const at::Tensor& x, const NormWeights& norm,
                                             const std::vector<LinearWeights>& linears, bool copy) {
  const at::Tensor normed = normalise(flat(x), norm.weight, norm.bias, norm.eps).x;
  std::vector<at::Tensor> results;
  if (const LinearWeights all = joined_maps(linears, copy); all.weight.defined()) {
    results = parted(apply_linear(normed, all), tensors_of(linears).biases, 1);
  } else {
    for (const LinearWeights& linear : linears) {
      results.push_back(apply_linear(normed, linear));
    }
  }
  for (at::Tensor& result : results) {
    result = result.view(with_width(x, result.size(1)));
  }
  return results;
}

struct MapsBackward {
  at::Tensor dx;
  std::vector<LinearGrads> linears;
};

/// Of several maps that lie as one. @param grads  [rows, out] of each
MapsBackward joined_backward(const variable_list& grads, const at::Tensor& x,
                             const std::vector<LinearWeights>& linears, const LinearWeights& all) {
  const MapTensors of = tensors_of(linears);
  at::Tensor grad = as_columns(grads);
  if (!grad.defined()) {
    grad = at::cat(grads, 1);
  }
  MapsBackward made{multiply(grad, all.weight, all.order), {}};
  const bool wanted = std::any_of(of.weights.begin(), of.weights.end(),
                                  [](const at::Tensor& weight) { return weight.requires_grad(); });
  const std::vector<at::Tensor> weights =
      wanted ? parted(multiply(grad.t(), x, all.order), of.weights, 0)
             : std::vector<at::Tensor>(linears.size());
  const std::vector<at::Tensor> biases = parted(grad.sum({0}), of.biases, 0);
  for (size_t i = 0; i < linears.size(); ++i) {
    made.linears.push_back({weights[i], biases[i]});
  }
  return made;
}

/// @param grads  [rows, out] of each map
MapsBackward maps_backward(const variable_list& grads, const at::Tensor& x,
                           const std::vector<LinearWeights>& linears) {
  if (const LinearWeights all = joined_maps(linears, /*copy=*/false); all.weight.defined()) {
    return joined_backward(grads, x, linears, all);
  }
  MapsBackward made;
  for (size_t i = 0; i < linears.size(); ++i) {
    add_input_grad(grads[i], linears[i], made.dx);
    made.linears.push_back(linear_grads(grads[i], x, linears[i]));
  }
  return made;
}

std::vector<LinearWeights> linears_of(at::TensorList tensors, ProductOrder order) {
  std::vector<LinearWeights> linears;
  for (size_t i = 0; i < tensors.size(); i += 2) {
    linears.push_back({tensors[i], tensors[i + 1], order});
  }
  return linears;
}

ProductOrder saved_order(AutogradContext* context) {
  return static_cast<ProductOrder>(context->saved_data["order"].toInt());
}

struct NormLinears : public torch::autograd::Function<NormLinears> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& weight, const at::Tensor& bias,
                               at::TensorList linears, double eps, int64_t order) {
    variable_list saved{x, weight, bias};
    saved.insert(saved.end(), linears.begin(), linears.end());
    context->save_for_backward(saved);
    context->saved_data["eps"] = eps;
    context->saved_data["order"] = order;
    return norm_linears_forward(x, {weight, bias, eps},
                                linears_of(linears, static_cast<ProductOrder>(order)),
                                /*copy=*/false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor rows = flat(saved[0]);
    const Normed normed =
        normalise(rows, saved[1], saved[2], context->saved_data["eps"].toDouble());
    variable_list results(saved.size() + 2);  // eps and the order have no gradient
    variable_list flat_grads(grads.size());
    std::transform(grads.begin(), grads.end(), flat_grads.begin(), flat);
    const MapsBackward maps = maps_backward(
        flat_grads, normed.x, linears_of(at::TensorList(saved).slice(3), saved_order(context)));
    for (size_t i = 0; i < maps.linears.size(); ++i) {
      results[3 + 2 * i] = maps.linears[i].weight;
      results[4 + 2 * i] = maps.linears[i].bias;
    }
    const auto [dx, dweight, dbias] = normalise_backward(maps.dx, rows, normed, saved[1], saved[2]);
    results[0] = dx.view(saved[0].sizes());
    results[1] = dweight;
    results[2] = dbias;
    return results;
  }
};

/// w: LayerNorm's weight and bias, the first map's, the second's; then perhaps the map that the
/// residual goes through, which is the identity otherwise.
constexpr size_t kResidualMap = 6;

/// residual(x) + second(active). @param rows, active [n, C], [n, hidden]
at::Tensor mlp_result(const at::Tensor& rows, const at::Tensor& active, at::TensorList w,
                      ProductOrder order) {
  at::Tensor result = apply_linear(active, {w[4], w[5], order});
  return w.size() > kResidualMap ? result.addmm_(rows, w[kResidualMap].t()) : result.add_(rows);
}

struct Mlp : public torch::autograd::Function<Mlp> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, at::TensorList w,
                            double eps, int64_t activation, int64_t order) {
    const at::Tensor rows = flat(x);
    const auto product_order = static_cast<ProductOrder>(order);
    const at::Tensor hidden =
        apply_linear(normalise(rows, w[0], w[1], eps).x, {w[2], w[3], product_order});
    variable_list saved{x, hidden};
    saved.insert(saved.end(), w.begin(), w.end());
    context->save_for_backward(saved);
    context->saved_data["eps"] = eps;
    context->saved_data["activation"] = activation;
    context->saved_data["order"] = order;
    const at::Tensor active = activated(hidden, static_cast<Activation>(activation));
    return mlp_result(rows, active, w, product_order).view(with_width(x, w[4].size(0)));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const auto kind = static_cast<Activation>(context->saved_data["activation"].toInt());
    const at::Tensor rows = flat(saved[0]);
    const at::Tensor& hidden = saved[1];
    const at::Tensor grad = flat(grads[0]);
    const at::TensorList w = at::TensorList(saved).slice(2);
    const ProductOrder order = saved_order(context);
    const LinearGrads second = linear_grads(grad, activated(hidden, kind), {w[4], w[5], order});
    const at::Tensor dhidden = activate_backward(multiply(grad, w[4], order), hidden, kind);
    const Normed normed = normalise(rows, w[0], w[1], context->saved_data["eps"].toDouble());
    const LinearGrads first = linear_grads(dhidden, normed.x, {w[2], w[3], order});
    auto [dx, dweight, dbias] =
        normalise_backward(multiply(dhidden, w[2], order), rows, normed, w[0], w[1]);
    variable_list results{{}, dweight, dbias, first.weight, first.bias, second.weight, second.bias};
    if (w.size() > kResidualMap) {
      dx.addmm_(grad, w[kResidualMap]);
      results.push_back(at::mm(grad.t(), rows));
    } else {
      dx.add_(grad);
    }
    results[0] = dx.view(saved[0].sizes());
    results.resize(results.size() + 3);  // eps, the activation and the order have none
    return results;
  }
};

at::Tensor mlp(const at::Tensor& x, const variable_list& w, double eps, Activation activation,
               ProductOrder order) {
  const bool wanted = x.requires_grad() || std::any_of(w.begin(), w.end(), [](const at::Tensor& t) {
                        return t.requires_grad();
                      });
  if (at::GradMode::is_enabled() && wanted) {
    return Mlp::apply(x, at::TensorList(w), eps, static_cast<int64_t>(activation),
                      static_cast<int64_t>(order));
  }
  const at::Tensor rows = flat(x);
  const at::Tensor active =
      activate_(apply_linear(normalise(rows, w[0], w[1], eps).x, {w[2], w[3], order}), activation);
  return mlp_result(rows, active, w, order).view(with_width(x, w[4].size(0)));
}

/// [B, H, O, d] -> [B * O, H * d]; a view when the memory lies that way already.
at::Tensor join(const at::Tensor& attended) {
  return attended.transpose(1, 2).reshape(
      {attended.size(0) * attended.size(2), attended.size(1) * attended.size(3)});
}

struct JoinedLinear : public torch::autograd::Function<JoinedLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& attended,
                            const at::Tensor& weight, const at::Tensor& bias, int64_t order) {
    context->save_for_backward({attended, weight, bias});
    context->saved_data["order"] = order;
    return apply_linear(join(attended), {weight, bias, static_cast<ProductOrder>(order)})
        .view({attended.size(0), attended.size(2), weight.size(0)});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& attended = saved[0];
    const at::Tensor grad = flat(grads[0]);
    const ProductOrder order = saved_order(context);
    const LinearGrads of = linear_grads(grad, join(attended), {saved[1], saved[2], order});
    const at::Tensor dx =
        multiply(grad, saved[1], order)
            .view({attended.size(0), attended.size(2), attended.size(1), attended.size(3)})
            .transpose(1, 2);
    return {dx, of.weight, of.bias, {}};
  }
};

}  // namespace

at::Tensor activated(const at::Tensor& x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return at::gelu(x, "none");
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kSilu:
      return at::silu(x);
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

std::vector<at::Tensor> norm_linears(const at::Tensor& x, const NormWeights& norm,
                                     const std::vector<LinearWeights>& linears) {
  if (!at::GradMode::is_enabled()) {
    return norm_linears_forward(x, norm, linears, /*copy=*/!x.is_cpu());
  }
  variable_list weights;
  for (const LinearWeights& linear : linears) {
    weights.push_back(linear.weight);
    weights.push_back(linear.bias);
  }
  return NormLinears::apply(x, norm.weight, norm.bias, at::TensorList(weights), norm.eps,
                            static_cast<int64_t>(linears.at(0).order));
}

at::Tensor residual_mlp(const at::Tensor& x, const NormWeights& norm, const LinearWeights& first,
                        const LinearWeights& second, Activation activation) {
  return mlp(x, {norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias},
             norm.eps, activation, first.order);
}

at::Tensor projected_mlp(const at::Tensor& x, const NormWeights& norm, const LinearWeights& first,
                         const LinearWeights& second, const LinearWeights& last,
                         Activation activation) {
  const at::Tensor weight = at::mm(last.weight, second.weight);
  const at::Tensor bias = at::mv(last.weight, second.bias) + last.bias;
  return mlp(x, {norm.weight, norm.bias, first.weight, first.bias, weight, bias, last.weight},
             norm.eps, activation, first.order);
}

at::Tensor joined_linear(const at::Tensor& attended, const LinearWeights& linear,
                         const at::Tensor& residual) {
  at::Tensor x;
  if (any_needs_grad({attended, linear.weight, linear.bias})) {
    x = JoinedLinear::apply(attended, linear.weight, linear.bias,
                            static_cast<int64_t>(linear.order));
    return residual.defined() ? x + residual : x;
  }
  x = apply_linear(join(attended), linear)
          .view({attended.size(0), attended.size(2), linear.weight.size(0)});
  return residual.defined() ? x.add_(residual) : x;
}

}  // namespace perceiver::nn
