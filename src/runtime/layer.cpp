#include "runtime/layer.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "perceiver/kernels/rows.h"

namespace perceiver::runtime {
namespace {

/// Rows that a product reads or writes: without gaps for oneDNN, with them for the seven.
Matrix room_for(ProductOrder order, int64_t rows, int64_t columns, Workspace& workspace) {
  return order == ProductOrder::kSeven ? workspace.matrix(rows, columns)
                                       : workspace.dense(rows, columns);
}

/// LayerNorm without scale and shift, which live in the next weight.
InParts<Matrix> normalised(ConstMatrix x, float eps, const Linear& reader, Workspace& workspace) {
  const auto out = reader.room(x.rows, workspace);
  kernels::normalise_rows(x.rows, x.columns, x.data, x.stride, eps,
                          {out.first.data, out.first.stride, out.width(), out.step});
  return out;
}

/// Moves what every value has in common behind the attention: the weights of a row sum to 1.
void fold_value_bias(Affine& output, const Affine& value) {
  Affine constant{value.out, 1, value.bias, {}};
  const Affine shifted = compose(output, constant);
  output.bias.resize(static_cast<size_t>(output.out), 0.0F);
  for (size_t o = 0; o < output.bias.size(); ++o) {
    // compose() added nothing to the bias: its inner map has none
    output.bias[o] += shifted.weight[o];
  }
}

void softmax_rows(Matrix scores, float scale) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < scores.rows; ++i) {
    float* row = scores.row(i);
    const float largest = *std::max_element(row, row + scores.columns);
    double sum = 0;
    for (int64_t j = 0; j < scores.columns; ++j) {
      row[j] = std::exp(scale * (row[j] - largest));
      sum += static_cast<double>(row[j]);
    }
    for (int64_t j = 0; j < scores.columns; ++j) {
      row[j] = static_cast<float>(static_cast<double>(row[j]) / sum);
    }
  }
}

}  // namespace

Mlp::Mlp(const Weights& weights, const std::string& prefix, const Compatibility& compatibility,
         Precision precision, ProductOrder order)
    : activation_(compatibility.activation),
      eps_(static_cast<float>(compatibility.layer_norm_eps)) {
  Affine in = weights.affine(prefix + ".mlp_in");
  in.fold_norm(weights.data(prefix + ".norm_mlp.weight"), weights.data(prefix + ".norm_mlp.bias"));
  out_ = Linear(weights.affine(prefix + ".mlp_out"), precision, 0, order);
  in_ = Linear(std::move(in), precision, out_.in_part(), order);
}

void Mlp::apply(Matrix x, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const auto hidden = out_.room(x.rows, workspace);
  {
    const Workspace::Scope inner(workspace);
    in_.apply(normalised(x, eps_, in_, workspace), hidden, {activation_, false});
  }
  out_.apply(hidden, side_by_side(x, x.columns), {{}, true});
}

SelfAttendLayer::SelfAttendLayer(Weights& weights, const std::string& prefix,
                                 const AttentionShape& shape, const Compatibility& compatibility,
                                 Precision precision, ProductOrder order)
    : shape_(shape), eps_(static_cast<float>(compatibility.layer_norm_eps)), precision_(precision) {
  const float* gamma = weights.data(prefix + ".norm_queries.weight");
  const float* beta = weights.data(prefix + ".norm_queries.bias");
  {
    Affine query = weights.affine(prefix + ".query");
    Affine key = weights.affine(prefix + ".key");
    Affine value = weights.affine(prefix + ".value");
    for (Affine* each : {&query, &key, &value}) {
      each->fold_norm(gamma, beta);
    }
    Affine output = weights.affine(prefix + ".output");
    fold_value_bias(output, value);
    key.bias.clear();  // adds one number to all scores of a query
    value.bias.clear();
    output_ = Linear(std::move(output), precision, 0, order);
    query_key_value_ = Linear(stack({&query, &key, &value}), precision, 0, order);
  }
  mlp_ = Mlp(weights, prefix, compatibility, precision, order);
  weights.release_all(prefix);
}

void SelfAttendLayer::apply(Matrix latents, int64_t batch, Workspace& workspace, float* map) const {
  const int64_t count = latents.rows / batch;
  const int64_t heads = shape_.num_heads;
  const int64_t qk = shape_.qk_channels / heads, v = shape_.v_channels / heads;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(qk)));
  {
    const Workspace::Scope scope(workspace);
    const Matrix all =
        room_for(query_key_value_.order(), latents.rows, query_key_value_.out(), workspace);
    {
      const Workspace::Scope inner(workspace);
      query_key_value_.apply(normalised(latents, eps_, query_key_value_, workspace),
                             side_by_side(all, all.columns));
    }
    const Matrix attended = room_for(output_.order(), latents.rows, shape_.v_channels, workspace);
    const auto part = [&](int64_t first, int64_t width) {
      return kernels::Rows<const float>{all.data + first, count * all.stride, width, all.stride};
    };
    kernels::AttendForward<float> attend;
    attend.shape = {batch, heads, count, count, qk, v};
    attend.q = part(0, qk);
    attend.k = part(shape_.qk_channels, qk);
    attend.v = part(2 * shape_.qk_channels, v);
    attend.scale = scale;
    attend.bfloat16 = precision_ == Precision::kBF16;
    attend.out = {attended.data, count * attended.stride, v, attended.stride};
    kernels::attend(attend);
    for (int64_t i = 0; map != nullptr && i < batch * heads; ++i) {
      const Matrix rows = all.block(i / heads * count, (i / heads + 1) * count);
      const Matrix scores{map + i * count * count, count, count, count};
      multiply_transposed(rows.slice(i % heads * qk, qk),
                          rows.slice(shape_.qk_channels + i % heads * qk, qk), scores);
      softmax_rows(scores, scale);
    }
    output_.apply(attended, latents, {{}, shape_.use_query_residual});
  }
  mlp_.apply(latents, workspace);
}

}  // namespace perceiver::runtime
