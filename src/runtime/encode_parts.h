#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/encode.h"
#include "runtime/token_factors.h"

// Private to encode.cpp and encode_read.cpp.

namespace perceiver::runtime {

struct CrossAttendIn::Parts {
  AttentionShape shape;
  MaskedRows masked_rows = MaskedRows::kZero;
  float eps = 1e-5F;
  Precision precision = Precision::kF32;
  int64_t scratch_bytes = 0;
  Plan cheapest = Plan::kTextbook;  ///< what kAuto means
  uint64_t fingerprint = 0;

  Linear query, output;
  /// LayerNorm folded in. The key's bias shifts whole softmax rows and is left out everywhere.
  Affine key, value;
  std::optional<Linear> key_value;  ///< textbook; made when first asked for
  std::vector<Linear> value_heads;  ///< absorbed: [v / H, C] each; made when first asked for
  Mlp mlp;

  int64_t qk_dim() const { return shape.qk_channels / shape.num_heads; }
  int64_t v_dim() const { return shape.v_channels / shape.num_heads; }
  const Linear& textbook_linear();
  const std::vector<Linear>& heads_of_values();
};

struct CrossAttendIn::Queries {
  Plan plan = Plan::kTextbook;
  int64_t batch = 1;
  int64_t latents = 0;
  int64_t sets = 1;   ///< 1 when all examples share them, else batch
  int64_t width = 0;  ///< of the state
  /// textbook: [sets, N, qk]; else absorbed and centred [sets, H, N, C]
  std::vector<float> rows;
  /// One for each source: an input read in many blocks makes its tables once, [sets, H, N, extent]
  /// per axis.
  mutable std::vector<std::unique_ptr<FactoredTables>> factored;

  const FactoredTables& of_source(const AttentionShape& shape, const TokenSource& source,
                                  Workspace& workspace) const;
};

}  // namespace perceiver::runtime
