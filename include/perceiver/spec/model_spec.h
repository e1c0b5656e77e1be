#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/json.h"

// One description of every Perceiver. A ModelSpec says what is read (inputs by modality), how many
// latents think about it, how deep, and what is asked (outputs by query). It holds no weights and
// no code; both engines, the checkpoint name maps, the cost model and `perceiver info` are built
// from it. Letters: B batch, M input tokens, C their channels, N latents, D their channels, O
// outputs, E query channels.

namespace perceiver {

enum class Activation { kGeluErf, kGeluTanh, kRelu, kSilu };
enum class ShapeForAttention { kQueries, kKeysValues };
enum class PositionKind { kNone, kTrainable, kFourier };
enum class PositionUse { kConcat, kAdd };

/// Where the points of an n-extent axis lie. DeepMind and transformers use both, so a subsampled
/// output is not a slice of the full one (docs/quirks.md).
enum class AxisGrid {
  kInclusive,  ///< linspace(-1, 1, n), both ends included
  kHalfOpen,   ///< -1 + 2 i / n, as for explicitly given indices
};

/// A position encoding: of input tokens or of output queries.
struct PositionSpec {
  PositionKind kind = PositionKind::kNone;
  int64_t num_channels = 0;             ///< width of a trainable table
  int64_t num_bands = 0;                ///< Fourier bands per axis
  std::vector<int64_t> max_resolution;  ///< per axis; empty = the extents of the grid itself
  bool concat_pos = true;               ///< the raw coordinate comes first
  bool sine_only = false;
  int64_t project_channels = 0;   ///< linear after the encoding; 0 = none
  int64_t num_extra_linears = 0;  ///< residual linears on the encoding (DeepMind's n_extra_pos_mlp)
  PositionUse use = PositionUse::kConcat;
};

enum class InputKind {
  kText,   ///< token ids [B, T], T <= index_dims[0]; embedding, positions added
  kGrid,   ///< values on a regular grid [B, index_dims..., channels]: image, video, sound, series
  kLabel,  ///< one vector [B, channels] that becomes one token without a position
  kSet,    ///< up to index_dims[0] unordered elements [B, M, coordinates + channels]
};

/// What turns raw grid values into token content.
enum class Stem {
  kPixels,   ///< the values themselves, every downsample-th along each axis
  kLinear,   ///< one linear layer to out_channels on each (strided) element; also for sets
  kConv1x1,  ///< the same map stored as a 1x1 convolution [out, in, 1, 1], stride = downsample
  kConv,     ///< per layer 7x7/2 convolution without bias, batch norm, ReLU, 3x3/2 max-pool
  kPatches,  ///< space-to-depth by `downsample`, then a linear layer if out_channels > 0
};

/// One modality that is read.
struct InputSpec {
  std::string name;  ///< unique; tokens are concatenated in name order
  InputKind kind = InputKind::kGrid;
  /// Raw extents: {T}, {H, W}, {frames, H, W}, {samples}, {max elements}.
  std::vector<int64_t> index_dims;
  int64_t channels = 0;            ///< raw channels beside the coordinates; classes of a label
  int64_t coordinates = 0;         ///< kSet: leading channels that are positions in [-1, 1]
  int64_t vocab_size = 0;          ///< kText
  int64_t embedding_channels = 0;  ///< kText
  Stem stem = Stem::kPixels;
  std::vector<int64_t> downsample;  ///< per axis: stride or patch extent; empty = 1 everywhere
  int64_t out_channels = 0;         ///< of the stem's linear or convolution; 0 = none
  int64_t num_conv_layers = 1;      ///< kConv: each divides H and W by 4
  bool batch_norm = true;           ///< kConv
  PositionSpec position;
  /// Chance that a token is replaced by the learned mask token, applied whatever the mode;
  /// < 0 = this modality has no mask token.
  double mask_probability = -1;
};

/// Widths of one attention module; 0 means the default rule.
struct AttentionSpec {
  int64_t num_heads = 1;
  int64_t qk_channels = 0;  ///< default: width of the side `shape_for_attention` names; self: D
  int64_t v_channels = 0;   ///< default: qk_channels
  ShapeForAttention shape_for_attention = ShapeForAttention::kKeysValues;
  bool use_query_residual = true;
  int64_t widening_factor = 1;
};

enum class CrossPlacement {
  kInterleaved,  ///< cross-attend k comes before block k
  kAtStart,      ///< all cross-attends, then all blocks
};

struct EncoderSpec {
  int64_t num_latents = 0;      ///< N
  int64_t latent_channels = 0;  ///< D
  AttentionSpec cross_attend;
  AttentionSpec self_attend;
  int64_t num_blocks = 1;
  int64_t num_self_attends_per_block = 1;
  bool share_blocks = true;  ///< all blocks use one set of weights
  // The original Perceiver reads its inputs repeatedly:
  int64_t num_cross_attends = 1;
  CrossPlacement cross_placement = CrossPlacement::kInterleaved;
  bool share_first_cross_attend = false;  ///< false: the first has weights of its own
  bool share_later_cross_attends = true;  ///< cross-attends 2..n share one set
};

enum class QueryKind {
  kLearned,       ///< trainable table [prod(index_dims), channels]
  kFourier,       ///< Fourier features of the output grid `index_dims`
  kInputTokens,   ///< the preprocessed tokens of input `of_input`, positions included
  kInputContent,  ///< its content alone ("inputs without position")
  kCoordinates,   ///< Fourier features of coordinates [B, O, index_dims.size()] the caller gives
  kCaller,        ///< query vectors [B, O, channels] the caller gives
};

/// What is done to a decoded row, after the decoder's own final linear.
enum class HeadKind {
  kNone,
  kLinear,         ///< linear to `head_channels`
  kMlp,            ///< linear to E, tanh, linear to `head_channels` (GLUE)
  kTiedEmbedding,  ///< times the transposed token embedding of input `of_input`, plus a bias
  kDepthToSpace,   ///< inverse of patches: `head_channels` per element of a block of `head_factors`
  kConvUpsample,   ///< transposed 4x4(x4) convolutions, ReLU between (DeepMind's "conv"/"raft")
  /// RAFT-style: each fine point is an attention-weighted 3x3 combination of a coarse field.
  kConvexUpsample,
};

/// One modality that is asked for.
struct OutputSpec {
  std::string name;  ///< unique; rows are concatenated in name order
  QueryKind query = QueryKind::kLearned;
  std::vector<int64_t> index_dims;  ///< extents of the output grid; {1} for a class
  int64_t channels = 0;             ///< kLearned, kCaller: query width before padding
  PositionSpec position;            ///< kFourier, kCoordinates; also projections of a learned table
  std::string of_input;             ///< kInputTokens, kInputContent, kTiedEmbedding, concat_input
  bool concat_input = false;        ///< query = [input content without position | position]
  /// Where kFourier points lie when all rows are asked.
  AxisGrid whole_grid = AxisGrid::kInclusive;
  HeadKind head = HeadKind::kNone;
  int64_t head_channels = 0;
  std::vector<int64_t> head_factors;  ///< kDepthToSpace, kConvUpsample, kConvexUpsample: per axis
  double divide_by = 1;               ///< flow: 100
  bool single_row = false;            ///< drop the index axis: [B, classes]
  bool flatten_channels = false;      ///< [B, O, c] becomes [B, O * c]: sound
  bool keep_grid = false;  ///< all rows asked: [B, index_dims..., c] instead of [B, O, c]
};

enum class DecoderKind {
  kCrossAttend,  ///< queries cross-attend to the latents
  kProjection,   ///< original Perceiver: mean over latents, one linear; no queries
};

struct DecoderSpec {
  DecoderKind kind = DecoderKind::kCrossAttend;
  AttentionSpec cross_attend{.use_query_residual = false};
  bool final_project = true;
  int64_t output_channels = 0;   ///< of the final linear (kProjection: of its only linear)
  bool pad_queries = false;      ///< append one learned vector per output (modality embedding)
  int64_t min_padding_size = 2;  ///< padded width = widest query + this
};

enum class ConvPadding {
  kSame,         ///< DeepMind: 7x7/2 pads (2, 3), the pool pads (0, 1): 224 -> 56
  kTransformers  ///< pads (3, 3), the pool not at all: 224 -> 55
};
enum class MaskedRows {
  kZero,  ///< DeepMind: a query without any valid key gets a zero attention result
  kMean,  ///< transformers: it gets the plain mean of the values
};

enum class BatchNormAverage {
  kZeroDebiased,  ///< DeepMind: Adam-style debiased averages of mean and biased variance
  kPlain,         ///< PyTorch: plain exponential average, unbiased variance
};

/// Every place where the two originals differ (deepmind_checkpoint.md section 4), one switch each.
struct Compatibility {
  Activation activation = Activation::kGeluErf;
  ConvPadding conv_padding = ConvPadding::kSame;
  MaskedRows masked_rows = MaskedRows::kZero;
  bool decoder_uses_query_mask = true;  ///< transformers takes a mask there and ignores it
  /// Training of conv stems.
  BatchNormAverage batch_norm_average = BatchNormAverage::kZeroDebiased;
  double layer_norm_eps = 1e-5;  ///< both; transformers' config key of that name is never read
  double attention_dropout = 0;  ///< training: on the softmax result
  double dropout = 0;            ///< training: after each attention and MLP (DeepMind's place)
};

/// A whole model.
struct ModelSpec {
  std::string name;          ///< free text for people: "language-perceiver"
  std::string architecture;  ///< transformers class when the model is one of theirs, else empty
  std::vector<InputSpec> inputs;
  bool pad_inputs = false;       ///< multimodal: append one learned vector per modality
  int64_t min_padding_size = 2;  ///< padded width = widest modality + this
  EncoderSpec encoder;
  DecoderSpec decoder;
  std::vector<OutputSpec> outputs;
  Compatibility compatibility;
  std::vector<std::string> labels;  ///< class names by index; may be empty

  const InputSpec& input(const std::string& wanted) const;    ///< @throws Error(kArgument)
  const OutputSpec& output(const std::string& wanted) const;  ///< @throws Error(kArgument)
};

/// Checks every rule a spec must meet: unique names, extents, divisibility by heads, references
/// between parts. The message names the field and both values.
/// @throws Error(kArgument)
void validate(const ModelSpec& spec);

/// A spec file: JSON with the field names above in snake_case and enum values as words. Absent keys
/// take the defaults above; an unknown key is an error that names it and the nearest known one.
/// @param where  the file's path, for messages
/// @throws Error(kFormat) on a wrong type or unknown key, Error(kArgument) from validate()
ModelSpec spec_from_json(const Json& json, const std::string& where);
Json spec_to_json(const ModelSpec& spec);

}  // namespace perceiver
