#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mv.h>

#include "nn/layers.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attend_terms.h"
#include "perceiver/nn/attention.h"

namespace perceiver::nn {
namespace {

/// a + b, into `a` when no gradient needs it. `b` may be one example for all of the batch.
at::Tensor add_into(at::Tensor a, const at::Tensor& b) {
  if (at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad())) {
    return a + b;
  }
  return a.add_(b);
}

/// [B, T, H * d] -> [B, H, T, d], a view.
at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

/// [B, H, T, d] -> [B, T, H * d].
at::Tensor join_heads(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

LinearWeights linear_weights(const Parameters& parameters, const std::string& prefix,
                             const char* name, ProductOrder order = ProductOrder::kPlain) {
  return {parameters.at(cat(prefix, ".", name, ".weight")),
          parameters.at(cat(prefix, ".", name, ".bias")), order};
}

NormWeights norm_weights(const Parameters& parameters, const std::string& prefix, const char* name,
                         double eps) {
  return {parameters.at(cat(prefix, ".", name, ".weight")),
          parameters.at(cat(prefix, ".", name, ".bias")), eps};
}

/// Whether to multiply two weight matrices once instead of all rows by one more of them.
bool composing_pays(const at::Tensor& last, int64_t rows) {
  if (!last.defined()) {
    return false;
  }
  const int64_t out = last.size(0), in = last.size(1);
  return out < in && 4 * out * in < rows * (in - out);
}

}  // namespace

at::Tensor AttentionModule::linear(const at::Tensor& x, const char* name) const {
  const LinearWeights weights = linear_weights(parameters_, prefix_, name);
  return at::linear(x, weights.weight, weights.bias);
}

at::Tensor AttentionModule::norm(const at::Tensor& x, const char* name) const {
  const NormWeights weights =
      norm_weights(parameters_, prefix_, name, compatibility_.layer_norm_eps);
  return at::layer_norm(x, {x.size(-1)}, weights.weight, weights.bias, weights.eps);
}

AttentionModule::KeysValues AttentionModule::keys_values(const at::Tensor& inputs) const {
  std::vector<at::Tensor> made = norm_linears(
      inputs, norm_weights(parameters_, prefix_, "norm_inputs", compatibility_.layer_norm_eps),
      {linear_weights(parameters_, prefix_, "key", order_),
       linear_weights(parameters_, prefix_, "value", order_)});
  return {made[0], made[1]};
}

at::Tensor AttentionModule::attend_to(const at::Tensor& queries, const KeysValues& inputs,
                                      const at::Tensor& key_mask, bool training,
                                      at::Tensor* map) const {
  const AttendOptions options{.num_heads = shape_.num_heads,
                              .masked_rows = compatibility_.masked_rows,
                              .dropout = training ? compatibility_.attention_dropout : 0};
  const at::Tensor q = linear(norm(queries, "norm_queries"), "query");
  if (map != nullptr) {
    *map = attention_map(q, inputs.keys, key_mask, options);
  }
  return attend(q, inputs.keys, inputs.values, key_mask, options);
}

at::Tensor AttentionModule::finish(const at::Tensor& attended, const at::Tensor& queries,
                                   bool projected, bool training, const LastMap& last) const {
  const double p = training ? compatibility_.dropout : 0;
  at::Tensor x =
      projected ? attended + parameters_.at(prefix_ + ".output.bias") : linear(attended, "output");
  if (p > 0) {
    x = at::dropout(x, p, true);
  }
  if (shape_.use_query_residual) {
    x = add_into(x, queries);
  }
  return mlp(x, training, last);
}

at::Tensor AttentionModule::mlp(const at::Tensor& x, bool training, const LastMap& last) const {
  const NormWeights before =
      norm_weights(parameters_, prefix_, "norm_mlp", compatibility_.layer_norm_eps);
  const LinearWeights first = linear_weights(parameters_, prefix_, "mlp_in", order_);
  const LinearWeights second = linear_weights(parameters_, prefix_, "mlp_out", order_);
  at::Tensor result;
  if (training && compatibility_.dropout > 0) {
    const at::Tensor hidden =
        activated(linear(norm(x, "norm_mlp"), "mlp_in"), compatibility_.activation);
    result = x + at::dropout(linear(hidden, "mlp_out"), compatibility_.dropout, true);
  } else if (composing_pays(last.weight, x.numel() / x.size(-1))) {
    return projected_mlp(x, before, first, second, {last.weight, last.bias},
                         compatibility_.activation);
  } else {
    result = residual_mlp(x, before, first, second, compatibility_.activation);
  }
  return last.weight.defined() ? at::linear(result, last.weight, last.bias) : result;
}

at::Tensor AttentionModule::absorbed_queries(const at::Tensor& queries) const {
  const at::Tensor q =
      split_heads(linear(norm(queries, "norm_queries"), "query"), shape_.num_heads);
  const int64_t width = q.size(-1);
  const at::Tensor weight = parameters_.at(prefix_ + ".key.weight")
                                .view({shape_.num_heads, width, shape_.input_channels});
  // the keys' bias moves whole rows of scores, which softmax does not see: its gradient is zero,
  // but there is one
  const at::Tensor nothing = parameters_.at(prefix_ + ".key.bias").sum() * 0;
  const at::Tensor factor =
      parameters_.at(prefix_ + ".norm_inputs.weight") / std::sqrt(static_cast<double>(width)) +
      nothing;
  return at::matmul(q, weight) * factor;
}

at::Tensor AttentionModule::values_of(const at::Tensor& mixed) const {
  const at::Tensor inputs = mixed * parameters_.at(prefix_ + ".norm_inputs.weight") +
                            parameters_.at(prefix_ + ".norm_inputs.bias");
  const LinearWeights value = linear_weights(parameters_, prefix_, "value");
  const at::Tensor weight = value.weight.view({shape_.num_heads, -1, shape_.input_channels});
  return join_heads(at::matmul(inputs, weight.transpose(1, 2))) + value.bias;
}

AttentionModule::AbsorbedInputs AttentionModule::absorbed_inputs(const at::Tensor& inputs) const {
  const int64_t heads = shape_.num_heads;
  const KeysValues made = keys_values(inputs);
  const at::Tensor keys = split_heads(made.keys, heads);
  const double scale = 1 / std::sqrt(static_cast<double>(keys.size(-1)));
  const LinearWeights query = linear_weights(parameters_, prefix_, "query");
  const at::Tensor weight = query.weight.view({heads, -1, shape_.query_channels});
  // what LayerNorm's shift and the bias make of every query
  const at::Tensor shift =
      at::mv(query.weight, parameters_.at(prefix_ + ".norm_queries.bias")) + query.bias;
  AbsorbedInputs absorbed;
  absorbed.keys =
      at::matmul(keys, weight) * (parameters_.at(prefix_ + ".norm_queries.weight") * scale);
  absorbed.bias = at::matmul(keys, shift.view({heads, -1, 1})).squeeze(-1) * scale;
  absorbed.values = split_heads(made.values, heads);
  // one head's values are projected for nothing; several heads' would each be as wide as the result
  absorbed.projected = heads * shape_.output_channels <= 2 * shape_.v_channels;
  if (absorbed.projected) {
    const at::Tensor output = parameters_.at(prefix_ + ".output.weight")
                                  .view({shape_.output_channels, heads, -1})
                                  .permute({1, 2, 0});
    absorbed.values = at::matmul(absorbed.values, output);
  }
  return absorbed;
}

at::Tensor AttentionModule::self_attend(const at::Tensor& latents, bool training,
                                        at::Tensor* map) const {
  const int64_t heads = shape_.num_heads;
  const AttendOptions options{.num_heads = heads,
                              .dropout = training ? compatibility_.attention_dropout : 0};
  std::vector<at::Tensor> made = norm_linears(
      latents, norm_weights(parameters_, prefix_, "norm_queries", compatibility_.layer_norm_eps),
      {linear_weights(parameters_, prefix_, "query", order_),
       linear_weights(parameters_, prefix_, "key", order_),
       linear_weights(parameters_, prefix_, "value", order_)});
  if (map != nullptr) {
    *map = attention_map(made[0], made[1], {}, options);
  }
  if (options.dropout > 0 || (training && compatibility_.dropout > 0)) {
    const at::Tensor attended = attend(made[0], made[1], made[2], {}, options);
    return finish(attended, latents, /*projected=*/false, training);
  }
  AttendTerms terms;
  terms.q = split_heads(made[0], heads);
  terms.k = split_heads(made[1], heads);
  terms.v = split_heads(made[2], heads);
  terms.scale = 1 / std::sqrt(static_cast<double>(terms.q.size(-1)));
  made.clear();
  const at::Tensor attended = attended_values(terms);
  terms = {};
  const at::Tensor x =
      joined_linear(attended, linear_weights(parameters_, prefix_, "output", order_),
                    shape_.use_query_residual ? latents : at::Tensor());
  return mlp(x, training, {});
}

}  // namespace perceiver::nn
