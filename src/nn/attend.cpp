#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>

#include "nn/attend_tiles.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"

// Heads are strides: in float32 on the CPU the kernels walk them where they lie. Elsewhere scores
// are made in tiles of attend_tiles.cpp or, where they are few, whole in textbook order. There
// masked scores are replaced by the lowest finite number: their weight is exactly zero next to any
// valid key, and a row without a valid key becomes the plain mean, which MaskedRows::kZero wipes.

namespace perceiver::nn {
namespace {

/// [B, T, H*d] -> [B*H, T, d] without copying when H is 1.
at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  const int64_t batch = x.size(0);
  const int64_t tokens = x.size(1);
  const int64_t width = x.size(2) / heads;
  return x.view({batch, tokens, heads, width})
      .transpose(1, 2)
      .reshape({batch * heads, tokens, width});
}

/// The inverse: [B*H, T, d] -> [B, T, H*d].
at::Tensor join_heads(const at::Tensor& x, int64_t heads) {
  const int64_t batch = x.size(0) / heads;
  const int64_t tokens = x.size(1);
  return x.view({batch, heads, tokens, x.size(2)})
      .transpose(1, 2)
      .reshape({batch, tokens, heads * x.size(2)});
}

/// [B, T, H*d] -> [B, H, T, d], a view.
at::Tensor heads_of(const at::Tensor& x, int64_t heads) {
  return x.unflatten(2, {heads, x.size(2) / heads}).transpose(1, 2);
}

/// [B, M] true = attend -> [B*H, 1, M] true = masked; undefined stays undefined.
at::Tensor masked_keys(const at::Tensor& key_mask, int64_t heads) {
  if (!key_mask.defined()) {
    return {};
  }
  const int64_t batch = key_mask.size(0);
  const int64_t keys = key_mask.size(1);
  return key_mask.logical_not()
      .view({batch, 1, 1, keys})
      .expand({batch, heads, 1, keys})
      .reshape({batch * heads, 1, keys});
}

double lowest(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return std::numeric_limits<double>::lowest();
    case at::kHalf:
      return -65504.0;
    case at::kBFloat16:
      return -3.3895313892515355e38;
    default:
      return static_cast<double>(std::numeric_limits<float>::lowest());
  }
}

double score_scale(const at::Tensor& q) {
  return 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
}

/// Scaled, masked scores of one tile: [B*H, rows, keys].
at::Tensor score_tile(const at::Tensor& q, const at::Tensor& k, const at::Tensor& masked) {
  const at::Tensor nothing = at::empty({1, 1, 1}, q.options());  // beta = 0: never read
  at::Tensor scores =
      at::baddbmm(nothing, q, k.transpose(1, 2), /*beta=*/0, /*alpha=*/score_scale(q));
  if (masked.defined()) {
    scores.masked_fill_(masked, lowest(scores.scalar_type()));
  }
  return scores;
}

at::Tensor attend_textbook(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& masked, double dropout) {
  at::Tensor weights = at::softmax(score_tile(q, k, masked), 2);
  if (dropout > 0) {
    weights = at::dropout(weights, dropout, /*train=*/true);
  }
  return at::bmm(weights, v);
}

void check_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& key_mask, int64_t heads) {
  const auto shape = [](const at::Tensor& x) { return shape_string(x.sizes().vec()); };
  if (q.dim() != 3 || k.dim() != 3 || v.dim() != 3 || q.size(0) != k.size(0) ||
      k.size(0) != v.size(0) || q.size(2) != k.size(2) || k.size(1) != v.size(1) || heads < 1 ||
      q.size(2) % heads != 0 || v.size(2) % heads != 0) {
    throw Error(ErrorCode::kShape,
                cat("[attend] queries ", shape(q), ", keys ", shape(k), " and values ", shape(v),
                    " do not fit together with ", heads, " heads"));
  }
  if (k.size(1) == 0) {
    throw Error(ErrorCode::kShape, "[attend] there is no key to attend to");
  }
  if (key_mask.defined() &&
      (key_mask.dim() != 2 || key_mask.size(0) != k.size(0) || key_mask.size(1) != k.size(1))) {
    throw Error(ErrorCode::kShape,
                cat("[attend] the mask is ", shape(key_mask), " but the keys are ", shape(k)));
  }
}

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& key_mask, const AttendOptions& options) {
  check_shapes(q, k, v, key_mask, options.num_heads);
  const int64_t heads = options.num_heads;
  const bool by_kernels = q.is_cpu() && q.scalar_type() == at::kFloat;
  const bool maybe_fused = !q.is_cpu() && !key_mask.defined() && options.tile_bytes == 0;
  const int64_t tile_bytes = options.tile_bytes > 0 ? options.tile_bytes : default_tile_bytes(q);
  const int64_t score_bytes = q.size(0) * heads * q.size(1) * k.size(1) * q.element_size();
  if (options.dropout > 0 || (!by_kernels && !maybe_fused && score_bytes <= tile_bytes)) {
    const at::Tensor out = join_heads(
        attend_textbook(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads),
                        masked_keys(key_mask, heads), options.dropout),
        heads);
    return key_mask.defined() && options.masked_rows == MaskedRows::kZero
               ? out * key_mask.any(1).view({-1, 1, 1}).to(out.scalar_type())
               : out;
  }
  AttendTerms terms;
  terms.q = heads_of(q, heads);
  terms.k = heads_of(k, heads);
  terms.v = heads_of(v, heads);
  terms.key_mask = key_mask;
  terms.scale = score_scale(terms.q);
  const at::Tensor by_heads = by_kernels || maybe_fused
                                  ? attended_values(terms)
                                  : attend_terms_by(terms, AttendPath::kTiles, tile_bytes).out;
  const at::Tensor out = by_heads.transpose(1, 2).reshape({q.size(0), q.size(1), v.size(2)});
  return key_mask.defined() && options.masked_rows == MaskedRows::kMean
             ? at::where(key_mask.any(1).view({-1, 1, 1}), out, v.mean({1}, /*keepdim=*/true))
             : out;
}

at::Tensor attention_map(const at::Tensor& q, const at::Tensor& k, const at::Tensor& key_mask,
                         const AttendOptions& options) {
  check_shapes(q, k, k, key_mask, options.num_heads);
  const int64_t heads = options.num_heads;
  const at::Tensor weights = at::softmax(
      score_tile(split_heads(q, heads), split_heads(k, heads), masked_keys(key_mask, heads)), 2);
  at::Tensor map = weights.view({q.size(0), heads, q.size(1), k.size(1)});
  if (key_mask.defined() && options.masked_rows == MaskedRows::kZero) {
    map = map * key_mask.any(1).view({-1, 1, 1, 1}).to(map.scalar_type());
  }
  return map;
}

}  // namespace perceiver::nn
