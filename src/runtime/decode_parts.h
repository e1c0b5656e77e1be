#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/decode.h"
#include "runtime/decode_tail.h"
#include "runtime/token_factors.h"

// Private to decode*.cpp.

namespace perceiver::runtime {

struct Decoder::Parts {
  DecoderWeights weights;
  int64_t scratch_bytes = 0;
  Affine query;                        ///< norm_queries folded in
  std::optional<Linear> query_linear;  ///< made when first asked for
  Linear key_value;                    ///< norm_inputs folded in, [qk + v, D]
  std::map<std::string, RowTail> tails;
  /// Projected queries that depend on weights alone, by output, at most kMaxKept bytes.
  std::map<std::string, std::vector<float>> constant_queries;
  int64_t constant_bytes = 0;

  static constexpr int64_t kMaxKept = int64_t{64} << 20;

  const AttentionShape& shape() const { return weights.shape; }
  int64_t qk_dim() const { return shape().qk_channels / shape().num_heads; }
  int64_t v_dim() const { return shape().v_channels / shape().num_heads; }
  const Linear& packed_query();
  /// q of all rows of a constant source [count, qk], or null if it is not constant or too large.
  const float* constant_rows(TokenSource& queries, const std::string& output, Workspace& workspace);
  bool keeps(const TokenSource& queries, const std::string& output) const;
};

struct Decoder::Prepared {
  Plan plan = Plan::kAuto;
  int64_t batch = 1;
  int64_t latents = 0;
  std::vector<float> keys_values;  ///< [B * N, qk + v], keys divided by sqrt(dk)
  int64_t width = 0;               ///< qk + v

  // What the absorbed orders need, made when first asked for.
  mutable bool has_keys = false, has_values = false;
  mutable std::vector<float> keys;      ///< [B, H, N, E], centred
  mutable std::vector<float> key_bias;  ///< [B, H, N]
  mutable std::vector<float> values;    ///< [B, H, N, E] with the output's bias in head 0
  /// One for each output; tables are [B, H, extent, N] per axis.
  mutable std::vector<std::unique_ptr<FactoredTables>> factored;

  ConstMatrix example(int64_t b) const {
    return {keys_values.data() + b * latents * width, latents, width, width};
  }
  void absorb_keys(const Parts& parts) const;
  void compose_values(const Parts& parts) const;
  const FactoredTables& of_queries(const Parts& parts, const std::string& output,
                                   const TokenSource& queries, Workspace& workspace) const;
};

/// How the rows of one output are computed: scores, values and what follows, chosen by flops.
struct RowOrder {
  ScoreChoice scores;
  bool values_composed = false;
  TailOrder tail = TailOrder::kSeparate;
};

/// @param whole_rows  the rows before the final linear are asked for
RowOrder choose_order(const Decoder::Parts& parts, const Decoder::Prepared& prepared,
                      const OutputSpec& output, const TokenSource& queries, bool whole_rows);

/// Scratch of a block of rows where nobody says otherwise.
constexpr int64_t kDecodeScratch = int64_t{8} << 20;

constexpr int64_t decode_block_rows(int64_t scratch_bytes, int64_t floats) {
  const int64_t bytes = scratch_bytes > 0 ? scratch_bytes : kDecodeScratch;
  const int64_t rows = bytes / (4 * (floats > 0 ? floats : 1));
  return rows < 64 ? 64 : rows > 4096 ? 4096 : rows;
}

}  // namespace perceiver::runtime
