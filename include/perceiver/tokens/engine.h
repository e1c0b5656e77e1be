#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/progress.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver {

/// One batch for a model, by modality name, channels last:
///   text  I64 [B, T];  grid F32 [B, index_dims..., channels];  label F32 [B, classes];
///   set   F32 [B, M, coordinates + channels]
/// F64 is taken by engines that compute in it.
struct ModelInputs {
  ArrayMap arrays;
  ArrayMap masks;  ///< BOOL [B, M_m], true = attend; an absent name means every token counts
  /// BOOL [B, M_m]: tokens that the learned mask token replaces, instead of a draw with the input's
  /// mask_probability.
  ArrayMap replaced;
};

/// What is asked of the decoder. By default every row of every output.
struct OutputRequest {
  std::vector<std::string> only;  ///< output names; empty = all
  std::map<std::string, std::vector<int64_t>>
      points;                  ///< flat row indices, any order, repeats allowed
  ArrayMap queries;            ///< kCaller: [B, O, channels]; kCoordinates: [B, O, d]
  ArrayMap query_masks;        ///< BOOL [B, O_m], true = a real row
  int64_t rows_per_block = 0;  ///< decode so many rows at a time; 0 = the engine chooses
  ProgressFn progress;         ///< called after each block
};

/// Intermediate arrays, filled when asked for. Keys:
///   "tokens" [B, M, C], "latents.0" after the (first) cross-attend, "latents.<k>" after step k of
///   the encoder (every self-attend and every further cross-attend counts), "decoder_queries" [B,
///   O, E], "decoder_output" [B, O, E] before the final linear, with `attention`:
///   "attention.encoder[.<i>]" [B, H, N, M], "attention.self.<k>" [B, H, N, N], "attention.decoder"
///   [B, H, O, N].
struct Trace {
  bool attention = false;
  std::vector<std::string> only;  ///< beginnings of keys to record; empty = every key
  ArrayMap arrays;
};

/// The latents of one batch and what the decoder needs besides (tokens, when queries are made of
/// them).
class Encoded {
 public:
  virtual ~Encoded() = default;
  /// [B, N, D]
  virtual Array latents() const = 0;
};

class EncoderState;  // perceiver/tokens/encoder_state.h

/// How one attention was computed, for statistics.
struct UsedPlan {
  std::string attention;  ///< as in AttentionPlan
  std::string plan;       ///< "textbook", "absorbed", "factored"
  std::string reason;
  double flops = 0;
};

/// One model ready to run. `nn` and later engines implement it; callers see no tensors library.
/// An engine is not thread-safe: one call at a time.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelSpec& spec() const = 0;
  /// For statistics: "nn", ...
  virtual std::string name() const = 0;

  /// Encodes and processes. @throws Error(kShape) naming modality, expected and given shape
  virtual std::unique_ptr<Encoded> encode(const ModelInputs& inputs, Trace* trace = nullptr) = 0;
  /// Decodes the asked rows from latents computed once; call as often as needed.
  /// @return per output name, see OutputSpec for the shapes; F32 (or the engine's dtype)
  virtual ArrayMap decode(const Encoded& encoded, const OutputRequest& request,
                          Trace* trace = nullptr) = 0;

  /// An empty state for inputs that come in blocks; finish_encoding() goes on with the latents.
  /// @param extents  raw extents of each grid input, where they differ from the spec's
  /// @throws Error(kUnsupported) if the engine or the spec (several cross-attends) can't
  virtual std::unique_ptr<EncoderState> start_encoding(
      int64_t batch, const std::map<std::string, std::vector<int64_t>>& extents = {});
  virtual std::unique_ptr<Encoded> finish_encoding(const EncoderState& state);

  /// The plans of the last encode and decode, in the order of the walk.
  virtual std::vector<UsedPlan> plans() const { return {}; }

  ArrayMap forward(const ModelInputs& inputs, const OutputRequest& request = {},
                   Trace* trace = nullptr) {
    return decode(*encode(inputs, trace), request, trace);
  }
};

}  // namespace perceiver
