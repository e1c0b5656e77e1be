#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/model_shape.h"
#include "spec/checks.h"
#include "spec/json_reader.h"
#include "spec/parts.h"

// A config.json becomes a spec in two steps: its keys with transformers' defaults (Config), then
// the model its class builds from them (build). The way back fills a Config from a spec and accepts
// it only if build() returns that very spec, so nothing transformers would compute differently is
// ever written.

namespace perceiver {
namespace {

using spec_detail::ObjectReader;

/// The keys transformers reads, with the defaults of its PerceiverConfig (5.23).
struct Config {
  std::string architecture;
  int64_t num_latents = 256;
  int64_t d_latents = 1280;
  int64_t d_model = 768;
  int64_t num_blocks = 1;
  int64_t num_self_attends_per_block = 26;
  int64_t num_self_attention_heads = 8;
  int64_t num_cross_attention_heads = 8;
  int64_t qk_channels = 0;  ///< null
  int64_t v_channels = 0;   ///< null
  std::string cross_attention_shape_for_attention = "kv";
  int64_t self_attention_widening_factor = 1;
  int64_t cross_attention_widening_factor = 1;
  std::string hidden_act = "gelu";
  double attention_probs_dropout_prob = 0.1;
  double initializer_range = 0.02;
  bool use_query_residual = true;
  int64_t vocab_size = 262;
  int64_t max_position_embeddings = 2048;
  int64_t image_size = 56;
  std::vector<int64_t> train_size{368, 496};
  int64_t num_frames = 16;
  int64_t audio_samples_per_frame = 1920;
  int64_t samples_per_patch = 16;
  std::vector<int64_t> output_shape{1, 16, 224, 224};
  int64_t output_num_channels = 512;
  int64_t label_trainable_num_channels = 1024;
  int64_t num_labels = 2;
  std::vector<std::string> labels;  ///< empty when they are transformers' placeholders
};

/// Keys of the hub's files and of transformers' base class that no Perceiver class computes with.
constexpr std::array kIgnored{
    "model_type", "layer_norm_eps", "label2id", "transformers_version",
    // legacy keys of the released files
    "hidden_dropout_prob", "position_embedding_init_scale", "seq_len", "torch_dtype",
    // bookkeeping of the base class
    "dtype", "_name_or_path", "_commit_hash", "problem_type", "finetuning_task", "return_dict",
    "output_hidden_states", "output_attentions", "use_cache", "torchscript", "use_bfloat16",
    "tie_word_embeddings", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder",
    "tokenizer_class", "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"};

constexpr std::array<std::pair<const char*, Activation>, 9> kActivationNames{
    {{"gelu", Activation::kGeluErf},
     {"gelu_new", Activation::kGeluTanh},
     {"relu", Activation::kRelu},
     {"silu", Activation::kSilu},
     {"gelu_python", Activation::kGeluErf},
     {"gelu_pytorch_tanh", Activation::kGeluTanh},
     {"gelu_fast", Activation::kGeluTanh},
     {"gelu_accurate", Activation::kGeluTanh},
     {"swish", Activation::kSilu}}};

// --- JSON -> Config ------------------------------------------------------------------------------

// transformers writes null where a value is absent.
template <typename Value>
void read_nullable(ObjectReader& reader, const Json& json, const char* key, Value& target) {
  const auto found = json.find(key);
  if (found != json.end() && found->is_null()) {
    reader.find(key);
  } else {
    reader.read(key, target);
  }
}

bool all_placeholders(const std::vector<std::string>& labels) {
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] != cat("LABEL_", i)) {
      return false;
    }
  }
  return true;
}

// {"0": "tench", "1": ...}: the integers decide the order, not the text of the keys.
std::vector<std::string> read_labels(const ObjectReader& reader, const Json& id2label) {
  if (!id2label.is_object()) {
    reader.fail("id2label", id2label, "an object of class names");
  }
  std::vector<std::string> labels(id2label.size());
  std::vector<bool> seen(id2label.size());
  for (const auto& [key, value] : id2label.items()) {
    const bool digits =
        !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    const size_t index = digits ? std::stoul(key) : labels.size();
    if (index >= labels.size() || seen[index]) {
      reader.fail("id2label." + key, value,
                  cat("keyed by the integers 0 to ", labels.size() - 1, ", each once"));
    }
    if (!value.is_string()) {
      reader.fail("id2label." + key, value, "a string");
    }
    labels[index] = value.get<std::string>();
    seen[index] = true;
  }
  return labels;
}

void read_label_keys(ObjectReader& reader, const Json& json, Config& config) {
  int64_t stated = 0;
  read_nullable(reader, json, "num_labels", stated);
  const Json* id2label = reader.find("id2label");
  if (id2label != nullptr && !id2label->is_null()) {
    config.labels = read_labels(reader, *id2label);
    config.num_labels = static_cast<int64_t>(config.labels.size());
    if (stated > 0 && stated != config.num_labels) {
      throw Error(ErrorCode::kFormat,
                  cat(reader.where(), ": num_labels (", stated,
                      ") disagrees with id2label, which has ", config.num_labels, " entries"));
    }
    if (all_placeholders(config.labels)) {
      config.labels.clear();
    }
  } else if (stated > 0) {
    config.num_labels = stated;
  }
}

std::string read_architecture(ObjectReader& reader, const Json& json) {
  std::string model_type = "perceiver";
  reader.read("model_type", model_type);
  if (model_type != "perceiver") {
    throw Error(ErrorCode::kUnsupported, cat(reader.where(), ": model_type is '",
                                             printable(model_type), "', not 'perceiver'"));
  }
  std::vector<std::string> names;
  read_nullable(reader, json, "architectures", names);
  if (names.size() != 1) {
    throw Error(ErrorCode::kFormat,
                cat(reader.where(), ": architectures must name the one class of the model, has ",
                    names.size(), " entries"));
  }
  return names.front();
}

Config read_config(const Json& json, const std::string& where) {
  ObjectReader reader(json, where, "");
  Config config;
  config.architecture = read_architecture(reader, json);
  reader.read("num_latents", config.num_latents);
  reader.read("d_latents", config.d_latents);
  reader.read("d_model", config.d_model);
  reader.read("num_blocks", config.num_blocks);
  reader.read("num_self_attends_per_block", config.num_self_attends_per_block);
  reader.read("num_self_attention_heads", config.num_self_attention_heads);
  reader.read("num_cross_attention_heads", config.num_cross_attention_heads);
  read_nullable(reader, json, "qk_channels", config.qk_channels);
  read_nullable(reader, json, "v_channels", config.v_channels);
  reader.read("cross_attention_shape_for_attention", config.cross_attention_shape_for_attention);
  reader.read("self_attention_widening_factor", config.self_attention_widening_factor);
  reader.read("cross_attention_widening_factor", config.cross_attention_widening_factor);
  reader.read("hidden_act", config.hidden_act);
  reader.read("attention_probs_dropout_prob", config.attention_probs_dropout_prob);
  reader.read("initializer_range", config.initializer_range);
  reader.read("use_query_residual", config.use_query_residual);
  reader.read("vocab_size", config.vocab_size);
  reader.read("max_position_embeddings", config.max_position_embeddings);
  reader.read("image_size", config.image_size);
  reader.read("train_size", config.train_size);
  reader.read("num_frames", config.num_frames);
  reader.read("audio_samples_per_frame", config.audio_samples_per_frame);
  reader.read("samples_per_patch", config.samples_per_patch);
  reader.read("output_shape", config.output_shape);
  reader.read("output_num_channels", config.output_num_channels);
  reader.read("_label_trainable_num_channels", config.label_trainable_num_channels);
  read_label_keys(reader, json, config);
  for (const char* key : kIgnored) {
    reader.find(key);
  }
  reader.finish();
  return config;
}

// --- Config -> ModelSpec -------------------------------------------------------------------------

AttentionSpec attention(const Config& config, int64_t heads, int64_t widening, bool residual) {
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.qk_channels = config.qk_channels;
  spec.v_channels = config.v_channels;
  spec.widening_factor = widening;
  spec.use_query_residual = residual;
  return spec;
}

ShapeForAttention shape_for_attention(const Config& config) {
  const std::string& word = config.cross_attention_shape_for_attention;
  if (word != "kv" && word != "q") {
    throw Error(ErrorCode::kFormat, cat("cross_attention_shape_for_attention must be kv or q, is '",
                                        printable(word), "'"));
  }
  return word == "q" ? ShapeForAttention::kQueries : ShapeForAttention::kKeysValues;
}

Activation activation(const Config& config) {
  for (const auto& [word, value] : kActivationNames) {
    if (config.hidden_act == word) {
      return value;
    }
  }
  throw Error(ErrorCode::kUnsupported,
              cat("hidden_act '", printable(config.hidden_act),
                  "' is not supported, only: gelu, gelu_new, gelu_pytorch_tanh, relu, silu"));
}

void require_divisible(const Config& config, int64_t heads, const char* key) {
  spec_detail::require(heads > 0 && config.d_latents % heads == 0, "config", "d_latents (",
                       config.d_latents, ") must be divisible by ", key, " (", heads, ")");
}

void build_common(const Config& config, ModelSpec& spec) {
  require_divisible(config, config.num_self_attention_heads, "num_self_attention_heads");
  require_divisible(config, config.num_cross_attention_heads, "num_cross_attention_heads");
  spec.architecture = config.architecture;
  EncoderSpec& encoder = spec.encoder;
  encoder.num_latents = config.num_latents;
  encoder.latent_channels = config.d_latents;
  encoder.num_blocks = config.num_blocks;
  encoder.num_self_attends_per_block = config.num_self_attends_per_block;
  encoder.cross_attend =
      attention(config, config.num_cross_attention_heads, config.cross_attention_widening_factor,
                config.use_query_residual);
  encoder.self_attend = attention(config, config.num_self_attention_heads,
                                  config.self_attention_widening_factor, true);
  encoder.cross_attend.shape_for_attention = shape_for_attention(config);
  spec.decoder.cross_attend.shape_for_attention = shape_for_attention(config);
  spec.compatibility = spec_detail::transformers_compatibility();
  spec.compatibility.activation = activation(config);
  spec.compatibility.attention_dropout = config.attention_probs_dropout_prob;
}

void build_class_decoder(const Config& config, ModelSpec& spec) {
  spec.decoder = spec_detail::class_decoder(config.num_labels);
  spec.outputs = {spec_detail::class_output("logits", config.d_latents)};
  spec.labels = config.labels;
}

InputSpec text(const Config& config) {
  return spec_detail::text_input("inputs", config.max_position_embeddings, config.vocab_size,
                                 config.d_model);
}

void build_masked_lm(const Config& config, ModelSpec& spec) {
  spec.inputs = {text(config)};
  AttentionSpec& decode = spec.decoder.cross_attend;
  decode.num_heads = 8;  // 8 heads of 32 and no residual are fixed in the class
  decode.qk_channels = 256;
  decode.v_channels = config.d_model;
  spec.decoder.final_project = false;
  OutputSpec logits;
  logits.name = "logits";
  logits.index_dims = {config.max_position_embeddings};
  logits.channels = config.d_model;
  logits.head = HeadKind::kTiedEmbedding;
  logits.of_input = "inputs";
  spec.outputs = {logits};
}

void build_sequence_classification(const Config& config, ModelSpec& spec) {
  spec.inputs = {text(config)};
  build_class_decoder(config, spec);
}

void build_learned(const Config& config, ModelSpec& spec) {
  InputSpec input = spec_detail::pixel_input("inputs", {config.image_size, config.image_size},
                                             spec_detail::trainable(256, 256));
  input.stem = Stem::kConv1x1;
  input.out_channels = 256;
  spec.inputs = {input};
  build_class_decoder(config, spec);
}

// 224 is nominal in the next two: the class takes any image, only the bands are fixed.
void build_fourier(const Config& config, ModelSpec& spec) {
  spec.inputs = {
      spec_detail::pixel_input("inputs", {224, 224}, spec_detail::fourier(64, {224, 224}))};
  build_class_decoder(config, spec);
}

void build_conv(const Config& config, ModelSpec& spec) {
  InputSpec input =
      spec_detail::pixel_input("inputs", {224, 224}, spec_detail::fourier(64, {56, 56}));
  input.stem = Stem::kConv;
  input.out_channels = 64;
  spec.inputs = {input};
  build_class_decoder(config, spec);
}

void require_length(const std::vector<int64_t>& list, size_t length, const char* key) {
  if (list.size() != length) {
    throw Error(ErrorCode::kFormat,
                cat(key, " must have ", length, " entries, is ", shape_string(list)));
  }
}

void build_flow(const Config& config, ModelSpec& spec) {
  require_length(config.train_size, 2, "train_size");
  std::vector<int64_t> frames = config.train_size;
  frames.insert(frames.begin(), 2);
  InputSpec input = spec_detail::patch_input("inputs", frames, 27, {2, 1, 1},
                                             spec_detail::fourier(64, config.train_size));
  input.out_channels = 64;
  spec.inputs = {input};
  spec.decoder.output_channels = 2;
  OutputSpec logits;
  logits.name = "logits";
  logits.query = QueryKind::kInputTokens;
  logits.index_dims = config.train_size;
  logits.of_input = "inputs";
  logits.divide_by = 100;
  logits.keep_grid = true;
  spec.outputs = {logits};
}

void build_multimodal_outputs(const Config& config, int64_t samples, const PositionSpec& audio,
                              const PositionSpec& image, ModelSpec& spec) {
  const std::vector<int64_t> video(config.output_shape.begin() + 1, config.output_shape.end());
  spec.outputs = {spec_detail::fourier_output("audio", {samples / config.samples_per_patch}, audio),
                  spec_detail::fourier_output("image", video, image),
                  spec_detail::class_output("label", config.label_trainable_num_channels)};
  const int64_t head_channels[] = {config.samples_per_patch, 3, config.num_labels};
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    spec.outputs[i].head = HeadKind::kLinear;
    spec.outputs[i].head_channels = head_channels[i];
  }
  spec.outputs[0].whole_grid = AxisGrid::kHalfOpen;
  spec.outputs[0].flatten_channels = true;
  spec.outputs[1].whole_grid = AxisGrid::kHalfOpen;
  spec.outputs[1].keep_grid = true;
}

void build_multimodal(const Config& config, ModelSpec& spec) {
  require_length(config.output_shape, 4, "output_shape");
  spec_detail::require_range(config.num_frames, 1, 1 << 20, "config", "num_frames");
  spec_detail::require_range(config.audio_samples_per_frame, 1, 1 << 20, "config",
                             "audio_samples_per_frame");
  spec_detail::require_range(config.samples_per_patch, 1, 1 << 20, "config", "samples_per_patch");
  const int64_t samples = config.num_frames * config.audio_samples_per_frame;
  const PositionSpec audio = spec_detail::fourier(192, {samples});
  const PositionSpec image =
      spec_detail::fourier(32, {config.num_frames, config.image_size, config.image_size});
  // The class takes videos of any size; the one it can rebuild is the nominal one.
  const std::vector<int64_t> video{config.num_frames, config.output_shape[2],
                                   config.output_shape[3]};
  spec.inputs = {spec_detail::patch_input("audio", {samples}, 1, {config.samples_per_patch}, audio),
                 spec_detail::patch_input("image", video, 3, {1, 4, 4}, image),
                 spec_detail::label_input("label", config.num_labels)};
  spec.inputs[0].mask_probability = 0;
  spec.inputs[1].mask_probability = 0;
  spec.inputs[2].mask_probability = 1;  // fixed in the class: the label is never read
  spec.pad_inputs = true;
  spec.min_padding_size = 4;
  spec.decoder.pad_queries = true;
  spec.decoder.output_channels = config.output_num_channels;
  build_multimodal_outputs(config, samples, audio, image, spec);
  spec.labels = config.labels;
}

struct Class {
  const char* name;
  void (*build)(const Config&, ModelSpec&);
};
constexpr Class kClasses[] = {
    {"PerceiverForMaskedLM", build_masked_lm},
    {"PerceiverForSequenceClassification", build_sequence_classification},
    {"PerceiverForImageClassificationLearned", build_learned},
    {"PerceiverForImageClassificationFourier", build_fourier},
    {"PerceiverForImageClassificationConvProcessing", build_conv},
    {"PerceiverForOpticalFlow", build_flow},
    {"PerceiverForMultimodalAutoencoding", build_multimodal},
};

ModelSpec build(const Config& config) {
  ModelSpec spec;
  for (const Class& known : kClasses) {
    if (config.architecture == known.name) {
      build_common(config, spec);
      const ShapeForAttention shape = spec.decoder.cross_attend.shape_for_attention;
      known.build(config, spec);
      spec.decoder.cross_attend.shape_for_attention = shape;
      validate(spec);
      return spec;
    }
  }
  std::string names;
  for (const Class& known : kClasses) {
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  throw Error(ErrorCode::kUnsupported,
              cat("architecture '", printable(config.architecture), "' is not one of: ", names));
}

// --- ModelSpec -> Config -------------------------------------------------------------------------

int64_t at_or_zero(const std::vector<int64_t>& list, size_t index) {
  return index < list.size() ? list[index] : 0;
}

template <typename Part>
const Part& named_or_default(const std::vector<Part>& parts, const std::string& name) {
  static const Part kNone;
  const auto found =
      std::find_if(parts.begin(), parts.end(), [&](const Part& part) { return part.name == name; });
  return found == parts.end() ? kNone : *found;
}

void extract_common(const ModelSpec& spec, Config& config) {
  const EncoderSpec& encoder = spec.encoder;
  config.architecture = spec.architecture;
  config.num_latents = encoder.num_latents;
  config.d_latents = encoder.latent_channels;
  config.num_blocks = encoder.num_blocks;
  config.num_self_attends_per_block = encoder.num_self_attends_per_block;
  config.num_self_attention_heads = encoder.self_attend.num_heads;
  config.num_cross_attention_heads = encoder.cross_attend.num_heads;
  config.qk_channels = encoder.self_attend.qk_channels;
  config.v_channels = encoder.self_attend.v_channels;
  config.self_attention_widening_factor = encoder.self_attend.widening_factor;
  config.cross_attention_widening_factor = encoder.cross_attend.widening_factor;
  config.use_query_residual = encoder.cross_attend.use_query_residual;
  config.cross_attention_shape_for_attention =
      encoder.cross_attend.shape_for_attention == ShapeForAttention::kQueries ? "q" : "kv";
  config.attention_probs_dropout_prob = spec.compatibility.attention_dropout;
  for (const auto& [word, value] : kActivationNames) {
    if (value == spec.compatibility.activation) {
      config.hidden_act = word;  // the usual spelling of each comes first
      break;
    }
  }
}

void extract_multimodal(const ModelSpec& spec, Config& config) {
  const InputSpec& audio = named_or_default(spec.inputs, "audio");
  const InputSpec& image = named_or_default(spec.inputs, "image");
  const OutputSpec& video = named_or_default(spec.outputs, "image");
  const OutputSpec& label = named_or_default(spec.outputs, "label");
  config.num_frames = std::max<int64_t>(at_or_zero(image.position.max_resolution, 0), 1);
  config.image_size = at_or_zero(image.position.max_resolution, 1);
  config.audio_samples_per_frame = at_or_zero(audio.position.max_resolution, 0) / config.num_frames;
  config.samples_per_patch = at_or_zero(audio.downsample, 0);
  config.output_shape = {1, at_or_zero(video.index_dims, 0), at_or_zero(video.index_dims, 1),
                         at_or_zero(video.index_dims, 2)};
  config.output_num_channels = spec.decoder.output_channels;
  config.label_trainable_num_channels = label.channels;
  config.num_labels = label.head_channels;
}

Config extract(const ModelSpec& spec) {
  Config config;
  extract_common(spec, config);
  config.d_model = resolve(spec).input_channels;
  const InputSpec& input = spec.inputs.front();
  if (input.kind == InputKind::kText) {
    config.vocab_size = input.vocab_size;
    config.max_position_embeddings = at_or_zero(input.index_dims, 0);
  }
  if (spec.architecture == "PerceiverForMultimodalAutoencoding") {
    extract_multimodal(spec, config);
  } else if (spec.architecture == "PerceiverForOpticalFlow") {
    config.train_size = {at_or_zero(input.index_dims, 1), at_or_zero(input.index_dims, 2)};
  } else if (spec.architecture != "PerceiverForMaskedLM") {
    config.num_labels = spec.decoder.output_channels;
    if (spec.architecture == "PerceiverForImageClassificationLearned") {
      config.image_size = at_or_zero(input.index_dims, 0);
    }
  }
  config.labels = spec.labels;
  return config;
}

// What is not part of the computation: the name, and the nominal size of pictures of any size.
ModelSpec comparable(ModelSpec spec) {
  spec.name.clear();
  if (spec.architecture == "PerceiverForImageClassificationFourier" ||
      spec.architecture == "PerceiverForImageClassificationConvProcessing") {
    spec.inputs.front().index_dims = {224, 224};
  }
  const auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
  std::sort(spec.inputs.begin(), spec.inputs.end(), by_name);
  std::sort(spec.outputs.begin(), spec.outputs.end(), by_name);
  return spec;
}

std::string shown(const Json* value) {
  return value == nullptr
             ? "the default"
             : printable(value->dump(-1, ' ', false, Json::error_handler_t::replace), 60);
}

// Path and both values of the first place where two written specs differ; empty if none.
std::string first_difference(const Json& ours, const Json& theirs, const std::string& path) {
  if (ours == theirs) {
    return "";
  }
  const bool lists = ours.is_array() && theirs.is_array() && ours.size() == theirs.size() &&
                     !ours.empty() && ours.front().is_structured();
  if (lists) {
    for (size_t i = 0; i < ours.size(); ++i) {
      const std::string found = first_difference(ours[i], theirs[i], cat(path, "[", i, "]"));
      if (!found.empty()) {
        return found;
      }
    }
  }
  if (!ours.is_object() || !theirs.is_object()) {
    return cat(path, " is ", shown(&ours), " here and ", shown(&theirs));
  }
  Json keys = ours;
  keys.update(theirs);
  for (const auto& [key, unused] : keys.items()) {
    const auto a = ours.find(key);
    const auto b = theirs.find(key);
    const std::string place = path.empty() ? key : path + "." + key;
    if (a == ours.end() || b == theirs.end()) {
      return cat(place, " is ", shown(a == ours.end() ? nullptr : &*a), " here and ",
                 shown(b == theirs.end() ? nullptr : &*b));
    }
    const std::string found = first_difference(*a, *b, place);
    if (!found.empty()) {
      return found;
    }
  }
  return "";
}

void require_same_model(const ModelSpec& spec, const Config& config) {
  const Json ours = spec_to_json(comparable(spec));
  Json theirs;
  try {
    theirs = spec_to_json(comparable(build(config)));
  } catch (const Error& error) {
    throw Error(ErrorCode::kUnsupported,
                cat("transformers cannot express this model: ", error.what()));
  }
  const std::string difference = first_difference(ours, theirs, "");
  if (!difference.empty()) {
    throw Error(ErrorCode::kUnsupported, cat("transformers cannot express this model: ", difference,
                                             " in ", spec.architecture));
  }
}

Json nullable(int64_t channels) {
  return channels > 0 ? Json(channels) : Json(nullptr);
}

void write_labels(const Config& config, Json& json) {
  json["id2label"] = Json::object();
  json["label2id"] = Json::object();
  for (int64_t i = 0; i < config.num_labels; ++i) {
    const std::string label =
        config.labels.empty() ? cat("LABEL_", i) : config.labels[static_cast<size_t>(i)];
    json["id2label"][std::to_string(i)] = label;
    json["label2id"][label] = i;
  }
}

Json write_config(const Config& config) {
  Json json{{"model_type", "perceiver"},
            {"architectures", {config.architecture}},
            {"num_latents", config.num_latents},
            {"d_latents", config.d_latents},
            {"d_model", config.d_model},
            {"num_blocks", config.num_blocks},
            {"num_self_attends_per_block", config.num_self_attends_per_block},
            {"num_self_attention_heads", config.num_self_attention_heads},
            {"num_cross_attention_heads", config.num_cross_attention_heads},
            {"qk_channels", nullable(config.qk_channels)},
            {"v_channels", nullable(config.v_channels)},
            {"cross_attention_shape_for_attention", config.cross_attention_shape_for_attention},
            {"self_attention_widening_factor", config.self_attention_widening_factor},
            {"cross_attention_widening_factor", config.cross_attention_widening_factor},
            {"hidden_act", config.hidden_act},
            {"attention_probs_dropout_prob", config.attention_probs_dropout_prob},
            {"initializer_range", config.initializer_range},
            {"layer_norm_eps", 1e-12},  // never read; the value every released file holds
            {"use_query_residual", config.use_query_residual},
            {"vocab_size", config.vocab_size},
            {"max_position_embeddings", config.max_position_embeddings},
            {"image_size", config.image_size},
            {"train_size", config.train_size},
            {"num_frames", config.num_frames},
            {"audio_samples_per_frame", config.audio_samples_per_frame},
            {"samples_per_patch", config.samples_per_patch},
            {"output_shape", config.output_shape},
            {"output_num_channels", config.output_num_channels},
            {"_label_trainable_num_channels", config.label_trainable_num_channels}};
  if (config.architecture != "PerceiverForMaskedLM" &&
      config.architecture != "PerceiverForOpticalFlow") {
    write_labels(config, json);
  }
  return json;
}

}  // namespace

HuggingFaceConfig config_from_hugging_face(const Json& json, const std::string& where) {
  const Config config = read_config(json, where);
  if (!(config.initializer_range >= 0) || !std::isfinite(config.initializer_range)) {
    throw Error(ErrorCode::kFormat, cat(where, ": initializer_range (", config.initializer_range,
                                        ") must be finite and not negative"));
  }
  try {
    return {build(config), config.initializer_range};
  } catch (const Error& error) {
    // Values come from the file, so a spec they make impossible is a fault of the file.
    const ErrorCode code = error.code() == ErrorCode::kArgument ? ErrorCode::kFormat : error.code();
    throw Error(code, cat(where, ": ", error.what()));
  }
}

Json config_to_hugging_face(const ModelSpec& spec) {
  if (spec.architecture.empty()) {
    throw Error(ErrorCode::kUnsupported,
                "transformers cannot express this model: its spec names no architecture");
  }
  const Config config = extract(spec);
  require_same_model(spec, config);
  return write_config(config);
}

bool has_hugging_face_form(const ModelSpec& spec) {
  try {
    config_to_hugging_face(spec);
    return true;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUnsupported) {
      return false;
    }
    throw;
  }
}

}  // namespace perceiver
