#include "support/deepmind_spec.h"

#include <string>

#include <nlohmann/json.hpp>

#include "perceiver/base/json.h"
#include "perceiver/spec/haiku.h"

namespace perceiver::test {
namespace {

int64_t number(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() || found->is_null() ? 0 : found->get<int64_t>();
}

std::vector<int64_t> numbers(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) {
    return {};
  }
  return found->is_array() ? found->get<std::vector<int64_t>>()
                           : std::vector<int64_t>{found->get<int64_t>()};
}

PositionSpec position(const Json& json) {
  PositionSpec spec;
  if (json.value("position_encoding_type", "") == "trainable") {
    spec.kind = PositionKind::kTrainable;
    spec.num_channels = number(json, "trainable_num_channels");
  } else {
    spec.kind = PositionKind::kFourier;
    spec.num_bands = number(json, "num_bands");
    spec.max_resolution = numbers(json, "max_resolution");
    spec.concat_pos = json.value("concat_pos", true);
    spec.sine_only = json.value("sine_only", false);
  }
  spec.project_channels = number(json, "project_pos_dim");
  spec.num_extra_linears = number(json, "n_extra_pos_mlp");
  return spec;
}

AttentionSpec attention(const Json& json, const char* heads, const char* widening) {
  AttentionSpec spec;
  spec.num_heads = number(json, heads);
  spec.qk_channels = number(json, "qk_channels");
  spec.v_channels = number(json, "v_channels");
  spec.widening_factor = number(json, widening);
  return spec;
}

EncoderSpec encoder(const Json& json) {
  EncoderSpec spec;
  spec.num_latents = number(json, "num_latents");
  spec.latent_channels = number(json, "d_latents");
  spec.num_blocks = number(json, "num_blocks");
  spec.num_self_attends_per_block = number(json, "num_self_attends_per_block");
  spec.cross_attend =
      attention(json, "num_cross_attention_heads", "cross_attention_widening_factor");
  spec.cross_attend.use_query_residual = json.at("use_query_residual").get<bool>();
  if (json.at("cross_attention_shape_for_attention") == "q") {
    spec.cross_attend.shape_for_attention = ShapeForAttention::kQueries;
  }
  spec.self_attend = attention(json, "num_self_attention_heads", "self_attention_widening_factor");
  return spec;
}

DecoderSpec decoder(const Json& json) {
  DecoderSpec spec;
  spec.cross_attend = attention(json, "num_heads", "widening_factor");
  spec.cross_attend.use_query_residual = json.at("use_query_residual").get<bool>();
  spec.final_project = json.at("final_project").get<bool>();
  return spec;
}

OutputSpec class_output(const std::string& name, int64_t channels) {
  OutputSpec output;
  output.name = name;
  output.index_dims = {1};
  output.channels = channels;
  output.single_row = true;
  return output;
}

void build_language(const Json& json, ModelSpec& spec) {
  InputSpec text;
  text.name = "inputs";
  text.kind = InputKind::kText;
  text.index_dims = numbers(json, "max_position_embeddings");
  text.vocab_size = number(json, "vocab_size");
  text.embedding_channels = number(json, "d_model");
  text.position.kind = PositionKind::kTrainable;
  text.position.num_channels = text.embedding_channels;
  text.position.use = PositionUse::kAdd;
  spec.inputs = {text};
  OutputSpec logits;
  logits.name = "logits";
  logits.index_dims = text.index_dims;
  logits.channels = number(json.at("decoder"), "num_channels");
  logits.head = HeadKind::kTiedEmbedding;
  logits.of_input = "inputs";
  spec.outputs = {logits};
}

void build_image(const Json& json, ModelSpec& spec) {
  const Json& given = json.at("input_preprocessor");
  InputSpec image;
  image.name = "inputs";
  image.channels = 3;
  image.index_dims = numbers(given, given.contains("image_size") ? "image_size" : "index_dims");
  image.position = position(given);
  const std::string type = given.at("prep_type");
  if (type == "conv") {
    image.stem = Stem::kConv;
    image.num_conv_layers = number(given, "num_layers");
  } else if (type == "conv1x1") {
    image.stem = Stem::kConv1x1;
  }
  const int64_t stride = number(given, "spatial_downsample");
  if (type != "conv" && stride > 1) {
    image.downsample = {stride, stride};
  }
  image.out_channels = number(given, "out_channels");
  spec.inputs = {image};
  if (json.at("decoder").at("kind") == "projection") {
    spec.decoder.kind = DecoderKind::kProjection;
    spec.outputs = {class_output("logits", 0)};
  } else {
    spec.outputs = {class_output("logits", number(json.at("decoder"), "num_channels"))};
  }
  spec.decoder.output_channels = number(json, "num_labels");
}

void build_flow(const Json& json, ModelSpec& spec) {
  const Json& given = json.at("input_preprocessor");
  InputSpec frames;
  frames.name = "inputs";
  frames.index_dims = numbers(json, "train_size");
  frames.index_dims.insert(frames.index_dims.begin(), 2);
  frames.channels = 27;
  frames.stem = Stem::kPatches;
  frames.downsample = {2, 1, 1};
  frames.out_channels = number(given, "out_channels");
  frames.position = position(given);
  spec.inputs = {frames};
  const Json& decode = json.at("decoder");
  spec.decoder.output_channels = number(decode, "output_num_channels");
  OutputSpec flow;
  flow.name = "logits";
  flow.query = QueryKind::kInputTokens;
  flow.index_dims = numbers(json, "train_size");
  flow.of_input = "inputs";
  flow.divide_by = decode.at("rescale_factor").get<double>();
  flow.keep_grid = true;
  spec.outputs = {flow};
}

OutputSpec fourier_output(const std::string& name, const Json& modalities, int64_t channels) {
  OutputSpec output;
  output.name = name;
  output.query = QueryKind::kFourier;
  output.index_dims = numbers(modalities.at(name), "output_index_dims");
  output.position = position(modalities.at(name));
  output.head = HeadKind::kLinear;
  output.head_channels = channels;
  return output;
}

void build_multimodal(const Json& json, ModelSpec& spec) {
  const Json& given = json.at("input_preprocessor");
  const Json& modalities = given.at("modalities");
  const int64_t frames = number(json, "num_frames");
  const int64_t samples_per_patch = number(json, "samples_per_patch");
  InputSpec audio, image, label;
  audio.name = "audio";
  audio.index_dims = {frames * number(json, "audio_samples_per_frame")};
  audio.channels = 1;
  audio.stem = Stem::kPatches;
  audio.downsample = {samples_per_patch};
  audio.position = position(modalities.at("audio"));
  image.name = "image";
  image.index_dims = numbers(json, "image_size");
  image.index_dims.insert(image.index_dims.begin(), frames);
  image.channels = 3;
  image.stem = Stem::kPatches;
  const int64_t patch = number(modalities.at("image"), "spatial_downsample");
  image.downsample = {number(modalities.at("image"), "temporal_downsample"), patch, patch};
  image.position = position(modalities.at("image"));
  label.name = "label";
  label.kind = InputKind::kLabel;
  label.channels = number(json, "num_labels");
  spec.inputs = {audio, image, label};
  for (InputSpec& input : spec.inputs) {
    input.mask_probability = given.at("mask_probs").at(input.name).get<double>();
  }
  spec.pad_inputs = true;
  spec.min_padding_size = number(given, "min_padding_size");

  const Json& decode = json.at("decoder");
  const Json& queries = decode.at("modalities");
  spec.decoder.pad_queries = true;
  spec.decoder.min_padding_size = number(decode, "min_padding_size");
  spec.decoder.output_channels = number(decode, "output_num_channels");
  spec.outputs = {fourier_output("audio", queries, samples_per_patch),
                  fourier_output("image", queries, 3),
                  class_output("label", number(queries.at("label"), "num_channels"))};
  spec.outputs[0].flatten_channels = true;
  spec.outputs[1].keep_grid = true;
  spec.outputs[2].head = HeadKind::kLinear;
  spec.outputs[2].head_channels = number(json, "num_labels");
}

}  // namespace

ModelSpec deepmind_fixture_spec(const std::filesystem::path& folder) {
  const Json json = read_json(folder / "config.json");
  ModelSpec spec;
  spec.name = json.at("model");
  spec.encoder = encoder(json);
  if (json.at("decoder").at("kind") != "projection") {
    spec.decoder = decoder(json.at("decoder"));
  }
  const std::string model = json.at("model");
  if (model == "language") {
    build_language(json, spec);
  } else if (model == "optical_flow") {
    build_flow(json, spec);
  } else if (model == "multimodal") {
    build_multimodal(json, spec);
  } else {
    build_image(json, spec);
  }
  return as_deepmind(spec);
}

}  // namespace perceiver::test
