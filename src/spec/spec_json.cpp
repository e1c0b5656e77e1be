#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_spec.h"
#include "spec/json_reader.h"

// Each struct has one list of its fields, visit(), which both directions follow.

namespace perceiver {
namespace {

using spec_detail::ObjectReader;

template <typename Enum, size_t n>
using Words = std::array<std::pair<Enum, std::string_view>, n>;

constexpr Words<Activation, 4> kActivationWords{{{Activation::kGeluErf, "gelu_erf"},
                                                 {Activation::kGeluTanh, "gelu_tanh"},
                                                 {Activation::kRelu, "relu"},
                                                 {Activation::kSilu, "silu"}}};
constexpr Words<ShapeForAttention, 2> kShapes{
    {{ShapeForAttention::kQueries, "queries"}, {ShapeForAttention::kKeysValues, "keys_values"}}};
constexpr Words<PositionKind, 3> kPositionKinds{{{PositionKind::kNone, "none"},
                                                 {PositionKind::kTrainable, "trainable"},
                                                 {PositionKind::kFourier, "fourier"}}};
constexpr Words<PositionUse, 2> kPositionUses{
    {{PositionUse::kConcat, "concat"}, {PositionUse::kAdd, "add"}}};
constexpr Words<AxisGrid, 2> kAxisGrids{
    {{AxisGrid::kInclusive, "inclusive"}, {AxisGrid::kHalfOpen, "half_open"}}};
constexpr Words<InputKind, 4> kInputKinds{{{InputKind::kText, "text"},
                                           {InputKind::kGrid, "grid"},
                                           {InputKind::kLabel, "label"},
                                           {InputKind::kSet, "set"}}};
constexpr Words<Stem, 5> kStems{{{Stem::kPixels, "pixels"},
                                 {Stem::kLinear, "linear"},
                                 {Stem::kConv1x1, "conv1x1"},
                                 {Stem::kConv, "conv"},
                                 {Stem::kPatches, "patches"}}};
constexpr Words<CrossPlacement, 2> kPlacements{
    {{CrossPlacement::kInterleaved, "interleaved"}, {CrossPlacement::kAtStart, "at_start"}}};
constexpr Words<QueryKind, 6> kQueryKinds{{{QueryKind::kLearned, "learned"},
                                           {QueryKind::kFourier, "fourier"},
                                           {QueryKind::kInputTokens, "input_tokens"},
                                           {QueryKind::kInputContent, "input_content"},
                                           {QueryKind::kCoordinates, "coordinates"},
                                           {QueryKind::kCaller, "caller"}}};
constexpr Words<HeadKind, 7> kHeadKinds{{{HeadKind::kNone, "none"},
                                         {HeadKind::kLinear, "linear"},
                                         {HeadKind::kMlp, "mlp"},
                                         {HeadKind::kTiedEmbedding, "tied_embedding"},
                                         {HeadKind::kDepthToSpace, "depth_to_space"},
                                         {HeadKind::kConvUpsample, "conv_upsample"},
                                         {HeadKind::kConvexUpsample, "convex_upsample"}}};
constexpr Words<DecoderKind, 2> kDecoderKinds{
    {{DecoderKind::kCrossAttend, "cross_attend"}, {DecoderKind::kProjection, "projection"}}};
constexpr Words<ConvPadding, 2> kConvPaddings{
    {{ConvPadding::kSame, "same"}, {ConvPadding::kTransformers, "transformers"}}};
constexpr Words<MaskedRows, 2> kMaskedRows{
    {{MaskedRows::kZero, "zero"}, {MaskedRows::kMean, "mean"}}};

constexpr Words<BatchNormAverage, 2> kBatchNormAverages{
    {{BatchNormAverage::kZeroDebiased, "zero_debiased"}, {BatchNormAverage::kPlain, "plain"}}};

const auto& words_of(Activation) {
  return kActivationWords;
}
const auto& words_of(ShapeForAttention) {
  return kShapes;
}
const auto& words_of(PositionKind) {
  return kPositionKinds;
}
const auto& words_of(PositionUse) {
  return kPositionUses;
}
const auto& words_of(AxisGrid) {
  return kAxisGrids;
}
const auto& words_of(InputKind) {
  return kInputKinds;
}
const auto& words_of(Stem) {
  return kStems;
}
const auto& words_of(CrossPlacement) {
  return kPlacements;
}
const auto& words_of(QueryKind) {
  return kQueryKinds;
}
const auto& words_of(HeadKind) {
  return kHeadKinds;
}
const auto& words_of(DecoderKind) {
  return kDecoderKinds;
}
const auto& words_of(ConvPadding) {
  return kConvPaddings;
}
const auto& words_of(MaskedRows) {
  return kMaskedRows;
}
const auto& words_of(BatchNormAverage) {
  return kBatchNormAverages;
}

template <typename Visitor>
void visit(Visitor& v, PositionSpec& s) {
  v("kind", s.kind);
  v("num_channels", s.num_channels);
  v("num_bands", s.num_bands);
  v("max_resolution", s.max_resolution);
  v("concat_pos", s.concat_pos);
  v("sine_only", s.sine_only);
  v("project_channels", s.project_channels);
  v("num_extra_linears", s.num_extra_linears);
  v("use", s.use);
}

template <typename Visitor>
void visit(Visitor& v, InputSpec& s) {
  v("name", s.name);
  v("kind", s.kind);
  v("index_dims", s.index_dims);
  v("channels", s.channels);
  v("coordinates", s.coordinates);
  v("vocab_size", s.vocab_size);
  v("embedding_channels", s.embedding_channels);
  v("stem", s.stem);
  v("downsample", s.downsample);
  v("out_channels", s.out_channels);
  v("num_conv_layers", s.num_conv_layers);
  v("batch_norm", s.batch_norm);
  v("position", s.position);
  v("mask_probability", s.mask_probability);
}

template <typename Visitor>
void visit(Visitor& v, AttentionSpec& s) {
  v("num_heads", s.num_heads);
  v("qk_channels", s.qk_channels);
  v("v_channels", s.v_channels);
  v("shape_for_attention", s.shape_for_attention);
  v("use_query_residual", s.use_query_residual);
  v("widening_factor", s.widening_factor);
}

template <typename Visitor>
void visit(Visitor& v, EncoderSpec& s) {
  v("num_latents", s.num_latents);
  v("latent_channels", s.latent_channels);
  v("cross_attend", s.cross_attend);
  v("self_attend", s.self_attend);
  v("num_blocks", s.num_blocks);
  v("num_self_attends_per_block", s.num_self_attends_per_block);
  v("share_blocks", s.share_blocks);
  v("num_cross_attends", s.num_cross_attends);
  v("cross_placement", s.cross_placement);
  v("share_first_cross_attend", s.share_first_cross_attend);
  v("share_later_cross_attends", s.share_later_cross_attends);
}

template <typename Visitor>
void visit(Visitor& v, OutputSpec& s) {
  v("name", s.name);
  v("query", s.query);
  v("index_dims", s.index_dims);
  v("channels", s.channels);
  v("position", s.position);
  v("of_input", s.of_input);
  v("concat_input", s.concat_input);
  v("whole_grid", s.whole_grid);
  v("head", s.head);
  v("head_channels", s.head_channels);
  v("head_factors", s.head_factors);
  v("divide_by", s.divide_by);
  v("single_row", s.single_row);
  v("flatten_channels", s.flatten_channels);
  v("keep_grid", s.keep_grid);
}

template <typename Visitor>
void visit(Visitor& v, DecoderSpec& s) {
  v("kind", s.kind);
  v("cross_attend", s.cross_attend);
  v("final_project", s.final_project);
  v("output_channels", s.output_channels);
  v("pad_queries", s.pad_queries);
  v("min_padding_size", s.min_padding_size);
}

template <typename Visitor>
void visit(Visitor& v, Compatibility& s) {
  v("activation", s.activation);
  v("conv_padding", s.conv_padding);
  v("masked_rows", s.masked_rows);
  v("decoder_uses_query_mask", s.decoder_uses_query_mask);
  v("batch_norm_average", s.batch_norm_average);
  v("layer_norm_eps", s.layer_norm_eps);
  v("attention_dropout", s.attention_dropout);
  v("dropout", s.dropout);
}

template <typename Visitor>
void visit(Visitor& v, ModelSpec& s) {
  v("name", s.name);
  v("architecture", s.architecture);
  v("inputs", s.inputs);
  v("pad_inputs", s.pad_inputs);
  v("min_padding_size", s.min_padding_size);
  v("encoder", s.encoder);
  v("decoder", s.decoder);
  v("outputs", s.outputs);
  v("compatibility", s.compatibility);
  v("labels", s.labels);
}

class Reader {
 public:
  Reader(const Json& value, const std::string& where, const std::string& path)
      : object_(value, where, path) {}

  template <typename Field>
  void operator()(const char* key, Field& field) {
    if constexpr (std::is_enum_v<Field>) {
      read_word(key, field);
    } else if constexpr (requires { object_.read(key, field); }) {
      object_.read(key, field);
    } else if (const Json* value = object_.find(key)) {
      read_struct(key, *value, field);
    }
  }
  void finish() const { object_.finish(); }

 private:
  template <typename Struct>
  void read_struct(const std::string& key, const Json& value, Struct& target) {
    Reader reader(value, object_.where(), object_.path_of(key));
    visit(reader, target);
    reader.finish();
  }

  template <typename Struct>
  void read_struct(const std::string& key, const Json& value, std::vector<Struct>& target) {
    if (!value.is_array()) {
      object_.fail(key, value, "a list");
    }
    for (size_t i = 0; i < value.size(); ++i) {
      read_struct(cat(key, "[", i, "]"), value[i], target.emplace_back());
    }
  }

  template <typename Enum>
  void read_word(const std::string& key, Enum& target) {
    const Json* value = object_.find(key);
    if (value == nullptr) {
      return;
    }
    std::string wanted;
    for (const auto& [word_value, word] : words_of(Enum{})) {
      if (value->is_string() && value->get_ref<const std::string&>() == word) {
        target = word_value;
        return;
      }
      wanted += (wanted.empty() ? "one of " : ", ") + std::string(word);
    }
    object_.fail(key, *value, wanted);
  }

  ObjectReader object_;
};

/// Writes every field; prune() removes the defaults afterwards.
class Writer {
 public:
  template <typename Field>
  void operator()(const char* key, Field& field) {
    json[key] = value_of(field);
  }
  Json json = Json::object();

 private:
  template <typename Field>
  static Json value_of(Field& field) {
    if constexpr (std::is_enum_v<Field>) {
      const auto& words = words_of(Field{});
      const auto found = std::find_if(words.begin(), words.end(),
                                      [&](const auto& entry) { return entry.first == field; });
      return std::string(found->second);
    } else if constexpr (requires(Writer w) { visit(w, field); }) {
      Writer writer;
      visit(writer, field);
      return writer.json;
    } else if constexpr (requires(Writer w) { visit(w, field.front()); }) {
      Json list = Json::array();
      for (auto& element : field) {
        list.push_back(value_of(element));
      }
      return list;
    } else {
      return field;
    }
  }
};

template <typename Struct>
Json all_fields(Struct value) {
  Writer writer;
  visit(writer, value);
  return writer.json;
}

void prune(Json& json, const Json& defaults) {
  for (auto member = json.begin(); member != json.end();) {
    const Json& usual = defaults.at(member.key());
    if (member->is_object()) {
      prune(*member, usual);
    }
    const bool drop = member->is_object() ? member->empty() : *member == usual;
    member = drop ? json.erase(member) : std::next(member);
  }
}

template <typename Struct>
void prune_each(Json& list) {
  for (Json& element : list) {
    prune(element, all_fields(Struct{}));
  }
}

}  // namespace

ModelSpec spec_from_json(const Json& json, const std::string& where) {
  ModelSpec spec;
  Reader reader(json, where, "");
  visit(reader, spec);
  reader.finish();
  try {
    validate(spec);
  } catch (const Error& error) {
    throw Error(error.code(), cat(where, ": ", error.what()));
  }
  return spec;
}

Json spec_to_json(const ModelSpec& spec) {
  Json json = all_fields(spec);
  prune_each<InputSpec>(json["inputs"]);
  prune_each<OutputSpec>(json["outputs"]);
  prune(json, all_fields(ModelSpec{}));
  return json;
}

}  // namespace perceiver
