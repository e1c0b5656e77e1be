#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"

namespace perceiver::nn {
namespace {

/// In inference `x` is a temporary of ours and is overwritten.
at::Tensor activate(at::Tensor x, Activation kind) {
  const bool in_place = !at::GradMode::is_enabled() || !x.requires_grad();
  switch (kind) {
    case Activation::kGeluErf:
      return in_place ? at::gelu_(x, "none") : at::gelu(x, "none");
    case Activation::kGeluTanh:
      return in_place ? at::gelu_(x, "tanh") : at::gelu(x, "tanh");
    case Activation::kRelu:
      return in_place ? at::relu_(x) : at::relu(x);
    case Activation::kSilu:
      return in_place ? at::silu_(x) : at::silu(x);
  }
  throw Error(ErrorCode::kInternal, "unknown activation");
}

/// a + b, into `a` when no gradient needs it.
at::Tensor add_into(at::Tensor a, const at::Tensor& b) {
  if (at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad())) {
    return a + b;
  }
  return a.add_(b);
}

}  // namespace

at::Tensor AttentionModule::linear(const at::Tensor& x, const char* name) const {
  return at::linear(x, parameters_.at(cat(prefix_, ".", name, ".weight")),
                    parameters_.at(cat(prefix_, ".", name, ".bias")));
}

at::Tensor AttentionModule::norm(const at::Tensor& x, const char* name) const {
  return at::layer_norm(x, {x.size(-1)}, parameters_.at(cat(prefix_, ".", name, ".weight")),
                        parameters_.at(cat(prefix_, ".", name, ".bias")),
                        compatibility_.layer_norm_eps);
}

AttentionModule::KeysValues AttentionModule::keys_values(const at::Tensor& inputs) const {
  const at::Tensor normed = norm(inputs, "norm_inputs");
  return {linear(normed, "key"), linear(normed, "value")};
}

at::Tensor AttentionModule::cross_attend(const at::Tensor& queries, const KeysValues& inputs,
                                         const at::Tensor& key_mask, const at::Tensor& query_mask,
                                         bool training, at::Tensor* map) const {
  const AttendOptions options{.num_heads = shape_.num_heads,
                              .masked_rows = compatibility_.masked_rows,
                              .dropout = training ? compatibility_.attention_dropout : 0};
  const at::Tensor q = linear(norm(queries, "norm_queries"), "query");
  if (map != nullptr) {
    *map = attention_map(q, inputs.keys, key_mask, options);
  }
  at::Tensor attended = attend(q, inputs.keys, inputs.values, key_mask, options);
  if (query_mask.defined()) {
    attended = attended * query_mask.unsqueeze(-1).to(attended.scalar_type());
  }
  return finish(queries, attended, training);
}

at::Tensor AttentionModule::self_attend(const at::Tensor& latents, bool training,
                                        at::Tensor* map) const {
  const AttendOptions options{.num_heads = shape_.num_heads,
                              .dropout = training ? compatibility_.attention_dropout : 0};
  at::Tensor attended;
  {
    const at::Tensor normed = norm(latents, "norm_queries");
    const at::Tensor q = linear(normed, "query");
    const at::Tensor k = linear(normed, "key");
    if (map != nullptr) {
      *map = attention_map(q, k, {}, options);
    }
    attended = attend(q, k, linear(normed, "value"), {}, options);
  }
  return finish(latents, attended, training);
}

at::Tensor AttentionModule::finish(const at::Tensor& residual, const at::Tensor& attended,
                                   bool training) const {
  const double p = training ? compatibility_.dropout : 0;
  const auto drop = [p](at::Tensor x) { return p > 0 ? at::dropout(x, p, true) : x; };
  at::Tensor x = drop(linear(attended, "output"));
  if (shape_.use_query_residual) {
    x = add_into(x, residual);
  }
  at::Tensor hidden = activate(linear(norm(x, "norm_mlp"), "mlp_in"), compatibility_.activation);
  return add_into(drop(linear(hidden, "mlp_out")), x);
}

}  // namespace perceiver::nn
