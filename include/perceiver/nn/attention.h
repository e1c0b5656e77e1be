#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "perceiver/kernels/strassen.h"
#include "perceiver/nn/parameters.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver::nn {

using kernels::ProductOrder;

struct AttendOptions {
  int64_t num_heads = 1;
  MaskedRows masked_rows = MaskedRows::kZero;
  double dropout = 0;      ///< on the softmax result; > 0 only in training
  int64_t tile_bytes = 0;  ///< scores made at a time; 0 = 8 MiB on the CPU, 128 MiB elsewhere
};

/// softmax(q k^T / sqrt(qk / H) + mask) v per head, made in tiles of queries: no score matrix is
/// ever whole, forward or backward (the backward recomputes tiles from the log-sum-exp).
/// @param q         [B, O, qk]      @param k [B, M, qk]      @param v [B, M, v]
/// @param key_mask  [B, M] bool, true = attend; undefined = all
/// @return          [B, O, v]; rows without a valid key by `masked_rows`
/// Cost: 2 B O M (qk + v) flops; extra memory tile_bytes
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& key_mask, const AttendOptions& options);

/// The softmax result itself, whole: [B, H, O, M]. For attention maps and as the oracle of
/// attend().
at::Tensor attention_map(const at::Tensor& q, const at::Tensor& k, const at::Tensor& key_mask,
                         const AttendOptions& options);

/// Pre-norm attention + MLP as encode, process and decode all use it
/// (reference: architecture.md section 2). `prefix` names its tensors, e.g.
/// "encoder.cross_attend.0".
class AttentionModule {
 public:
  /// @param order  of the products with wide weights
  AttentionModule(const Parameters& parameters, std::string prefix, const AttentionShape& shape,
                  const Compatibility& compatibility, ProductOrder order = ProductOrder::kPlain)
      : parameters_(parameters),
        prefix_(std::move(prefix)),
        shape_(shape),
        compatibility_(compatibility),
        order_(order) {}

  struct KeysValues {
    at::Tensor keys;    ///< [B, M, qk]
    at::Tensor values;  ///< [B, M, v]
  };
  /// Keys and values of `inputs` [B, M, C]; of the latents they serve every block of decoder rows.
  KeysValues keys_values(const at::Tensor& inputs) const;

  /// Weighted means of values, before the output projection.
  /// @param queries   [B, O, E]
  /// @param key_mask  [B, M] bool or undefined
  /// @param map       receives [B, H, O, M] when not null
  /// @return          [B, O, v]
  at::Tensor attend_to(const at::Tensor& queries, const KeysValues& inputs,
                       const at::Tensor& key_mask, bool training, at::Tensor* map = nullptr) const;
  /// A linear map of what finish() returns; undefined tensors: none.
  struct LastMap {
    at::Tensor weight;  ///< [out, E]
    at::Tensor bias;    ///< [out]
  };
  /// Output projection, residual and MLP, and perhaps the map of the result that follows.
  /// @param attended  [B, O, v]; or [B, O, E], projected already but for the bias
  /// @param queries   [B, O, E] (or [1, O, E] for all); only read with a query residual
  /// @return          [B, O, E], or [B, O, out] with a last map
  at::Tensor finish(const at::Tensor& attended, const at::Tensor& queries, bool projected,
                    bool training, const LastMap& last = {}) const;

  /// Queries with the key projection, the inputs' LayerNorm scale and 1 / sqrt(dk) in them, to be
  /// multiplied with normalised inputs. @param queries [B, O, E] @return [B, H, O, C]
  at::Tensor absorbed_queries(const at::Tensor& queries) const;
  /// Values of weighted means of normalised inputs. @param mixed [B, H, O, C] @return [B, O, v]
  at::Tensor values_of(const at::Tensor& mixed) const;

  /// Inputs as keys that carry the query projection: for few inputs and many queries.
  struct AbsorbedInputs {
    at::Tensor keys;         ///< [B, H, M, E], to be multiplied with normalised queries
    at::Tensor bias;         ///< [B, H, M]
    at::Tensor values;       ///< [B, H, M, v / H], or [B, H, M, E] when projected
    bool projected = false;  ///< the output projection is in the values; heads add up
  };
  AbsorbedInputs absorbed_inputs(const at::Tensor& inputs) const;

  /// @param latents [B, N, D] @return [B, N, D]
  at::Tensor self_attend(const at::Tensor& latents, bool training, at::Tensor* map = nullptr) const;

 private:
  at::Tensor linear(const at::Tensor& x, const char* name) const;
  at::Tensor norm(const at::Tensor& x, const char* name) const;
  at::Tensor mlp(const at::Tensor& x, bool training, const LastMap& last) const;

  const Parameters& parameters_;
  std::string prefix_;
  AttentionShape shape_;
  Compatibility compatibility_;
  ProductOrder order_;
};

}  // namespace perceiver::nn
