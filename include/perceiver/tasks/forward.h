#pragma once

#include <cstdint>
#include <string>

#include "perceiver/base/array.h"
#include "perceiver/base/progress.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/engine.h"

// Plain tensors in, plain tensors out: the contract of `perceiver forward`.
//
// A transformers model takes the tensors of transformers' forward():
//   inputs            text I64 [B, T]; pictures [B, 3, H, W]; flow [B, 2, 27, H, W]
//   attention_mask    [B, T], 1 = valid; any integer, float or bool dtype
//   inputs.image [B, T, 3, H, W], inputs.audio [B, S, 1], inputs.label [B, L]       multimodal
//   subsampled_output_points.<output>  I64 [n], flat row indices
// Every other model takes, with channels last:
//   inputs.<modality>, or `inputs` when there is one;  mask.<modality> [B, M], 1 = valid
//   points.<output> I64 [n];  queries.<output> [B, O, channels];  query_mask.<output> [B, O]
// Answers are `logits`, or `logits.<output>` when there are several.

namespace perceiver::tasks {

struct ForwardOptions {
  int64_t memory_budget = 0;  ///< bytes the decoder may use for the rows of one block; 0 = no bound
  bool double_precision = false;  ///< hand F64 to the engine instead of F32
  ProgressFn progress;
};

/// What an engine is to be asked for `tensors`.
struct ForwardCall {
  ModelInputs inputs;
  OutputRequest request;
};

/// @throws Error(kShape), Error(kArgument) naming the tensor: missing, unknown, of another shape or
///         dtype, ids outside the vocabulary, points outside the output
ForwardCall forward_call(const ModelSpec& spec, const ArrayMap& tensors,
                         const ForwardOptions& options = {});

/// Engine outputs under the names of the contract.
ArrayMap name_outputs(const ModelSpec& spec, ArrayMap outputs);

/// forward_call, the engine, name_outputs.
ArrayMap forward(Engine& engine, const ArrayMap& tensors, const ForwardOptions& options = {});

/// Rows of the decoder that fit `bytes` of working memory at batch `batch`; at least 1.
int64_t rows_for_budget(const ModelSpec& spec, int64_t batch, int64_t bytes);

/// "512MiB", "2GB", "1048576" -> bytes. @throws Error(kArgument)
int64_t parse_bytes(const std::string& text);

}  // namespace perceiver::tasks
