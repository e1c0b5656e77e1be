#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"

// Scores are made tile by tile, [B*H, rows, keys], with the softmax kept as (running maximum, sum,
// weighted sum of values) and merged exactly from one block of keys to the next. The backward pass
// makes each tile again from the saved maximum and sum. Masked scores are replaced by the lowest
// finite number: their weight is exactly zero next to any valid key, and a row without a valid key
// becomes the plain mean, which MaskedRows::kZero then wipes.

namespace perceiver::nn {
namespace {

constexpr int64_t kDefaultTileBytes = int64_t{8} << 20;
constexpr int64_t kKeysPerTile = 2048;

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

struct TileSizes {
  int64_t rows;
  int64_t keys;
};

TileSizes choose_tiles(int64_t batch_heads, int64_t rows, int64_t keys, int64_t element_size,
                       int64_t tile_bytes) {
  const int64_t budget = std::max<int64_t>(
      1, (tile_bytes > 0 ? tile_bytes : kDefaultTileBytes) / (element_size * batch_heads));
  const int64_t tile_keys = std::clamp<int64_t>(keys, 1, std::min<int64_t>(kKeysPerTile, budget));
  return {std::clamp<int64_t>(budget / tile_keys, 1, std::max<int64_t>(rows, 1)), tile_keys};
}

at::Tensor narrow_mask(const at::Tensor& masked, int64_t begin, int64_t length) {
  return masked.defined() ? masked.narrow(2, begin, length) : masked;
}

/// Softmax state of a block of query rows.
struct RowState {
  at::Tensor maximum;   ///< [B*H, rows, 1]
  at::Tensor sum;       ///< [B*H, rows, 1] of exp(score - maximum)
  at::Tensor weighted;  ///< [B*H, rows, dv] of exp(score - maximum) * value
};

RowState attend_rows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& masked, int64_t tile_keys) {
  RowState state;
  const int64_t keys = k.size(1);
  for (int64_t begin = 0; begin < keys; begin += tile_keys) {
    const int64_t length = std::min(tile_keys, keys - begin);
    at::Tensor scores =
        score_tile(q, k.narrow(1, begin, length), narrow_mask(masked, begin, length));
    const at::Tensor block_maximum = scores.amax({2}, /*keepdim=*/true);
    const at::Tensor maximum =
        begin == 0 ? block_maximum : at::maximum(state.maximum, block_maximum);
    scores.sub_(maximum).exp_();
    const at::Tensor block_sum = scores.sum({2}, /*keepdim=*/true);
    const at::Tensor values = v.narrow(1, begin, length);
    if (begin == 0) {
      state = {maximum, block_sum, at::bmm(scores, values)};
      continue;
    }
    const at::Tensor shrink = (state.maximum - maximum).exp_();
    state.sum.mul_(shrink).add_(block_sum);
    state.weighted.mul_(shrink);
    state.weighted.baddbmm_(scores, values);
    state.maximum = maximum;
  }
  return state;
}

struct Attended {
  at::Tensor out;      ///< [B*H, O, dv]
  at::Tensor maximum;  ///< [B*H, O, 1]
  at::Tensor sum;      ///< [B*H, O, 1]
};

Attended attend_tiled(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& masked, int64_t tile_bytes, bool keep_state) {
  const int64_t rows = q.size(1);
  const TileSizes tile = choose_tiles(q.size(0), rows, k.size(1), q.element_size(), tile_bytes);
  const bool whole_rows = tile.keys >= k.size(1) && !keep_state;
  if (whole_rows && tile.rows >= rows) {
    return {at::bmm(at::softmax(score_tile(q, k, masked), 2), v), {}, {}};
  }
  Attended result{at::empty({q.size(0), rows, v.size(2)}, q.options()), {}, {}};
  if (keep_state) {
    result.maximum = at::empty({q.size(0), rows, 1}, q.options());
    result.sum = at::empty_like(result.maximum);
  }
  for (int64_t begin = 0; begin < rows; begin += tile.rows) {
    const int64_t length = std::min(tile.rows, rows - begin);
    if (whole_rows) {  // the fused softmax is one pass, not four
      at::Tensor scores = score_tile(q.narrow(1, begin, length), k, masked);
      result.out.narrow(1, begin, length).copy_(at::bmm(at::softmax(scores, 2), v));
      continue;
    }
    RowState state = attend_rows(q.narrow(1, begin, length), k, v, masked, tile.keys);
    result.out.narrow(1, begin, length).copy_(state.weighted.div_(state.sum));
    if (keep_state) {
      result.maximum.narrow(1, begin, length).copy_(state.maximum);
      result.sum.narrow(1, begin, length).copy_(state.sum);
    }
  }
  return result;
}

/// Differentiable attend_tiled over [B*H, tokens, width] tensors.
struct TiledAttention : public torch::autograd::Function<TiledAttention> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v,
                            const std::optional<at::Tensor>& mask, int64_t tile_bytes) {
    const at::Tensor masked = mask.value_or(at::Tensor());
    Attended attended = attend_tiled(q, k, v, masked, tile_bytes, /*keep_state=*/true);
    context->save_for_backward({q, k, v, masked, attended.out, attended.maximum, attended.sum});
    context->saved_data["tile_bytes"] = tile_bytes;
    return attended.out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &masked = saved[3],
                     &out = saved[4];
    const at::Tensor grad_out = grads[0].contiguous();
    // delta_i = sum_j P_ij dP_ij, obtained from the output alone
    const at::Tensor delta = (grad_out * out).sum({2}, /*keepdim=*/true);
    at::Tensor grad_q = at::zeros_like(q);
    at::Tensor grad_k = at::zeros_like(k);
    at::Tensor grad_v = at::zeros_like(v);
    const TileSizes tile = choose_tiles(q.size(0), q.size(1), k.size(1), q.element_size(),
                                        context->saved_data["tile_bytes"].toInt());
    for (int64_t row = 0; row < q.size(1); row += tile.rows) {
      const int64_t rows = std::min(tile.rows, q.size(1) - row);
      const auto of_rows = [&](const at::Tensor& x) { return x.narrow(1, row, rows); };
      for (int64_t key = 0; key < k.size(1); key += tile.keys) {
        const int64_t keys = std::min(tile.keys, k.size(1) - key);
        const at::Tensor mask = narrow_mask(masked, key, keys);
        at::Tensor p = score_tile(of_rows(q), k.narrow(1, key, keys), mask);
        p.sub_(of_rows(saved[5])).exp_().div_(of_rows(saved[6]));
        grad_v.narrow(1, key, keys).baddbmm_(p.transpose(1, 2), of_rows(grad_out));
        at::Tensor ds = at::bmm(of_rows(grad_out), v.narrow(1, key, keys).transpose(1, 2));
        ds.sub_(of_rows(delta)).mul_(p).mul_(score_scale(q));
        if (mask.defined()) {
          ds.masked_fill_(mask, 0);  // a masked score does not depend on q or k
        }
        grad_q.narrow(1, row, rows).baddbmm_(ds, k.narrow(1, key, keys));
        grad_k.narrow(1, key, keys).baddbmm_(ds.transpose(1, 2), of_rows(q));
      }
    }
    return {grad_q, grad_k, grad_v, at::Tensor(), at::Tensor()};
  }
};

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
  const at::Tensor qh = split_heads(q, heads);
  const at::Tensor kh = split_heads(k, heads);
  const at::Tensor vh = split_heads(v, heads);
  const at::Tensor masked = masked_keys(key_mask, heads);
  const bool differentiable =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  const int64_t score_bytes = qh.size(0) * q.size(1) * k.size(1) * q.element_size();
  const int64_t tile_bytes = options.tile_bytes > 0 ? options.tile_bytes : kDefaultTileBytes;
  at::Tensor out;
  if (options.dropout > 0 || (differentiable && score_bytes <= tile_bytes)) {
    out = attend_textbook(qh, kh, vh, masked, options.dropout);
  } else if (differentiable) {
    // autograd takes an absent tensor only as an empty optional
    const std::optional<at::Tensor> mask = masked.defined() ? std::optional(masked) : std::nullopt;
    out = TiledAttention::apply(qh, kh, vh, mask, tile_bytes);
  } else {
    out = attend_tiled(qh, kh, vh, masked, tile_bytes, /*keep_state=*/false).out;
  }
  out = join_heads(out, heads);
  if (key_mask.defined() && options.masked_rows == MaskedRows::kZero) {
    const at::Tensor any_valid = key_mask.any(1).view({-1, 1, 1});
    out = out * any_valid.to(out.scalar_type());
  }
  return out;
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
