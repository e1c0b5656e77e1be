#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

namespace perceiver {

/// Matrix-multiplication work of one stage at batch 1, multiply and add counted separately
/// (reference: architecture.md section 10).
struct StageCost {
  std::string stage;  ///< "preprocess", "encode", "process", "decode", "head"
  int64_t parameters = 0;
  double flops = 0;
  double score_bytes = 0;  ///< largest score matrix if it were made whole, float32
};

struct ModelCost {
  std::vector<StageCost> stages;
  int64_t parameters = 0;
  double flops = 0;
};

/// @param num_outputs  rows decoded; < 0 = all
ModelCost textbook_cost(const ModelSpec& spec, int64_t num_outputs = -1);

/// A Transformer encoder over M tokens: what Perceivers are compared with. Its defaults are
/// AlphaStar's encoder of 512 entities as arXiv 2107.14795, sec. B describes it.
struct TransformerShape {
  int64_t num_tokens = 512;    ///< M
  int64_t input_channels = 0;  ///< of a token before the first linear; 0 = no such linear
  int64_t channels = 256;      ///< D, between layers
  int64_t num_layers = 3;
  int64_t num_heads = 2;          ///< H
  int64_t head_channels = 128;    ///< K, of each head's queries, keys and values
  int64_t mlp_channels = 1024;    ///< F
  int64_t output_channels = 256;  ///< of the linear after the last layer; 0 = no such linear
};

/// Its matrix multiplications for one set, counted as textbook_cost() counts:
///   2 M (input D + D output) + layers * [2 M D 3 H K + 4 M M H K + 2 M H K D + 4 M D F]
/// @throws Error(kArgument) for a negative number
double transformer_flops(const TransformerShape& shape);

}  // namespace perceiver
