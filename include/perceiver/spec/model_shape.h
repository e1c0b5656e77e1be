#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

namespace perceiver {

/// What one input becomes: M_m tokens of [content | position | padding] channels.
struct TokenShape {
  std::string name;
  /// Token grid after the stem; a time axis patched to 1 is dropped.
  std::vector<int64_t> index_dims;
  int64_t tokens = 0;  ///< their product
  int64_t content_channels = 0;
  int64_t position_table_channels = 0;  ///< of the encoding before a projection
  int64_t position_channels = 0;        ///< appended to the content; 0 when positions are added
  int64_t padding_channels = 0;         ///< learned modality vector
  int64_t channels() const { return content_channels + position_channels + padding_channels; }
};

/// What one output's queries are: O_m rows of [query | padding] channels.
struct QueryShape {
  std::string name;
  int64_t rows = 0;            ///< of the whole grid; 0 when only the caller knows
  int64_t query_channels = 0;  ///< before padding; kInputTokens: the token's whole width, its
                               ///< modality vector included; projection decoder: 0
  int64_t padding_channels = 0;
};

/// Every width of one attention module, defaults resolved.
struct AttentionShape {
  int64_t query_channels = 0;  ///< width of the queries (and of the result)
  int64_t input_channels = 0;  ///< width of keys and values
  int64_t num_heads = 1;
  int64_t qk_channels = 0;
  int64_t v_channels = 0;
  int64_t output_channels = 0;  ///< of the projection after attention: equals query_channels
  int64_t mlp_channels = 0;     ///< hidden width
  bool use_query_residual = true;
  bool self = false;  ///< one LayerNorm serves queries, keys and values
};

/// A ModelSpec with every derived number worked out. Inputs and outputs are in name order.
struct ModelShape {
  std::vector<TokenShape> inputs;
  std::vector<QueryShape> outputs;
  int64_t num_inputs = 0;      ///< M when every input is full
  int64_t input_channels = 0;  ///< C
  int64_t num_outputs = 0;     ///< O when every row is asked
  int64_t query_channels = 0;  ///< E
  AttentionShape encoder_cross, self, decoder_cross;
};

/// @throws Error(kArgument) as validate() does
ModelShape resolve(const ModelSpec& spec);

/// How many weight sets the encoder holds and which one each step uses:
/// step s of `order` is either cross-attend set i or self-attend block set i.
struct EncoderStep {
  bool cross = false;
  int64_t weight_set = 0;
};
std::vector<EncoderStep> encoder_steps(const EncoderSpec& encoder);

}  // namespace perceiver
