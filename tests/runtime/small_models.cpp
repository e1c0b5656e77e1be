#include "runtime/small_models.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver::runtime {
namespace {

int64_t small_width(int64_t width) {
  return width >= 64 ? width / 16 : width;
}

int64_t small_extent(int64_t extent) {
  static const std::map<int64_t, int64_t> kSmall{
      {2048, 24}, {512, 20}, {61440, 1280}, {30720, 240}, {1920, 15}, {368, 10}, {496, 14},
      {224, 16},  {56, 4},   {28, 2},       {32, 4},      {16, 3},    {1120, 20}};
  const auto found = kSmall.find(extent);
  return found == kSmall.end() ? extent : found->second;
}

void shrink(std::vector<int64_t>& extents) {
  for (int64_t& extent : extents) {
    extent = small_extent(extent);
  }
}

void shrink(PositionSpec& position) {
  position.num_channels = small_width(position.num_channels);
  position.project_channels = small_width(position.project_channels);
  position.num_bands =
      position.num_bands > 2 ? std::max<int64_t>(position.num_bands / 16, 2) : position.num_bands;
  shrink(position.max_resolution);
}

void shrink(AttentionSpec& attention) {
  attention.qk_channels = small_width(attention.qk_channels);
  attention.v_channels = small_width(attention.v_channels);
}

}  // namespace

ModelSpec small_preset(const std::string& name) {
  ModelSpec spec = preset(name);
  if (name == "timeseries") {  // small as it is
    return spec;
  }
  for (InputSpec& input : spec.inputs) {
    shrink(input.index_dims);
    shrink(input.position);
    input.channels = small_width(input.channels);
    input.embedding_channels = small_width(input.embedding_channels);
    input.out_channels = small_width(input.out_channels);
  }
  EncoderSpec& encoder = spec.encoder;
  encoder.num_latents = std::max<int64_t>(encoder.num_latents / 16, 5);
  encoder.latent_channels = small_width(encoder.latent_channels);
  shrink(encoder.cross_attend);
  shrink(encoder.self_attend);
  encoder.num_blocks = std::min<int64_t>(encoder.num_blocks, 3);
  encoder.num_self_attends_per_block = std::min<int64_t>(encoder.num_self_attends_per_block, 2);
  encoder.num_cross_attends = std::min<int64_t>(encoder.num_cross_attends, encoder.num_blocks);
  shrink(spec.decoder.cross_attend);
  spec.decoder.output_channels = small_width(spec.decoder.output_channels);
  for (OutputSpec& output : spec.outputs) {
    shrink(output.index_dims);
    shrink(output.position);
    output.channels = small_width(output.channels);
    output.head_channels = small_width(output.head_channels);
  }
  return spec;
}

namespace {

ModelSpec base(const std::string& name) {
  ModelSpec spec;
  spec.name = name;
  spec.encoder = {
      .num_latents = 9, .latent_channels = 24, .cross_attend = {}, .self_attend = {.num_heads = 3}};
  spec.encoder.num_self_attends_per_block = 2;
  InputSpec input;
  input.name = "inputs";
  input.index_dims = {6, 10};
  input.channels = 3;
  input.position = {.kind = PositionKind::kFourier, .num_bands = 3, .max_resolution = {}};
  spec.inputs = {input};
  OutputSpec output;
  output.name = "logits";
  output.query = QueryKind::kFourier;
  output.index_dims = {5, 7};
  output.position = {.kind = PositionKind::kFourier, .num_bands = 2, .max_resolution = {}};
  output.keep_grid = true;
  spec.outputs = {output};
  spec.decoder.output_channels = 2;
  return spec;
}

ModelSpec with_heads() {
  ModelSpec spec = base("heads");
  spec.encoder.cross_attend = {.num_heads = 4, .qk_channels = 8, .v_channels = 24};
  spec.decoder.cross_attend.num_heads = 2;
  spec.decoder.cross_attend.qk_channels = 12;
  spec.decoder.cross_attend.v_channels = 8;
  spec.decoder.cross_attend.use_query_residual = true;
  spec.decoder.cross_attend.widening_factor = 3;
  spec.compatibility.activation = Activation::kSilu;
  return spec;
}

ModelSpec no_residual() {
  ModelSpec spec = base("no_residual");
  spec.encoder.cross_attend.use_query_residual = false;
  spec.encoder.self_attend.use_query_residual = false;
  spec.decoder.cross_attend.shape_for_attention = ShapeForAttention::kQueries;
  spec.encoder.cross_attend.shape_for_attention = ShapeForAttention::kQueries;
  spec.compatibility.activation = Activation::kGeluTanh;
  spec.compatibility.layer_norm_eps = 1e-3;
  return spec;
}

ModelSpec crosses_at_start() {
  ModelSpec spec = base("crosses_at_start");
  spec.encoder.num_blocks = 3;
  spec.encoder.num_cross_attends = 3;
  spec.encoder.cross_placement = CrossPlacement::kAtStart;
  spec.encoder.share_blocks = false;
  spec.encoder.share_later_cross_attends = false;
  return spec;
}

ModelSpec shared_crosses() {
  ModelSpec spec = crosses_at_start();
  spec.name = "shared_crosses";
  spec.encoder.cross_placement = CrossPlacement::kInterleaved;
  spec.encoder.share_first_cross_attend = true;
  spec.encoder.share_later_cross_attends = true;
  return spec;
}

ModelSpec callers_rows() {
  ModelSpec spec = base("callers_rows");
  OutputSpec coordinates = spec.outputs[0];
  coordinates.name = "at";
  coordinates.query = QueryKind::kCoordinates;
  coordinates.keep_grid = false;
  OutputSpec given = coordinates;
  given.name = "given";
  given.query = QueryKind::kCaller;
  given.position = {};
  given.channels = 6;
  spec.outputs.push_back(coordinates);
  spec.outputs.push_back(given);
  spec.decoder.pad_queries = true;
  return spec;
}

ModelSpec input_with_positions() {
  ModelSpec spec = base("input_with_positions");
  spec.outputs[0].index_dims = {6, 10};
  spec.outputs[0].concat_input = true;
  spec.outputs[0].of_input = "inputs";
  OutputSpec tokens = spec.outputs[0];
  tokens.name = "tokens";
  tokens.query = QueryKind::kInputTokens;
  tokens.concat_input = false;
  tokens.position = {};
  spec.outputs.push_back(tokens);
  spec.decoder.pad_queries = true;
  return spec;
}

ModelSpec position_linears() {
  ModelSpec spec = base("position_linears");
  spec.inputs[0].position.project_channels = 5;
  spec.inputs[0].position.num_extra_linears = 2;
  spec.outputs[0].position.project_channels = 8;
  spec.outputs[0].position.num_extra_linears = 1;
  spec.inputs[0].position.sine_only = true;
  spec.outputs[0].position.concat_pos = false;
  return spec;
}

ModelSpec learned_positions() {
  ModelSpec spec = base("learned_positions");
  spec.inputs[0].position = {
      .kind = PositionKind::kTrainable, .num_channels = 4, .max_resolution = {}};
  spec.inputs[0].stem = Stem::kLinear;
  spec.inputs[0].out_channels = 7;
  spec.inputs[0].downsample = {2, 2};
  return spec;
}

ModelSpec replaced_tokens() {
  ModelSpec spec = base("replaced_tokens");
  spec.inputs[0].mask_probability = 0;
  spec.pad_inputs = true;
  InputSpec label;
  label.name = "label";
  label.kind = InputKind::kLabel;
  label.channels = 5;
  label.mask_probability = 1;
  spec.inputs.push_back(label);
  return spec;
}

ModelSpec four_axes() {
  ModelSpec spec = base("four_axes");
  spec.inputs[0].index_dims = {2, 3, 4, 5};
  spec.outputs[0].index_dims = {3, 2, 2, 2};
  return spec;
}

ModelSpec upsampling(HeadKind head, const std::string& name) {
  ModelSpec spec = base(name);
  spec.outputs[0].head = head;
  spec.outputs[0].head_factors = {2, 4};
  spec.outputs[0].head_channels = 2;
  spec.outputs[0].divide_by = 3;
  spec.decoder.output_channels = 16;
  return spec;
}

}  // namespace

std::vector<ModelSpec> odd_models() {
  return {with_heads(),
          no_residual(),
          crosses_at_start(),
          shared_crosses(),
          callers_rows(),
          input_with_positions(),
          position_linears(),
          learned_positions(),
          replaced_tokens(),
          four_axes(),
          upsampling(HeadKind::kDepthToSpace, "depth_to_space"),
          upsampling(HeadKind::kConvUpsample, "conv_upsample"),
          upsampling(HeadKind::kConvexUpsample, "convex_upsample")};
}

ArrayMap lively_weights(const ModelSpec& spec, uint64_t seed) {
  ArrayMap weights = random_parameters(spec, InitScheme::kDeepMind, seed);
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  for (auto& [name, array] : weights) {
    if (array.dtype() != DType::kF32) {
      continue;
    }
    const bool variance = name.ends_with("running_var");
    const bool zero = std::all_of(array.data<float>(), array.data<float>() + array.numel(),
                                  [](float value) { return value == 0; });
    if (array.dim() != 1 && !zero) {
      continue;
    }
    const float scale =
        array.dim() == 1 ? 0.2F : 0.5F / std::sqrt(static_cast<float>(array.size(1)));
    for (int64_t i = 0; i < array.numel(); ++i) {
      const float change = scale * normal(generator);
      array.mutable_data<float>()[i] += variance ? std::abs(change) : change;
    }
  }
  return weights;
}

ModelInputs random_inputs(const ModelSpec& spec, int64_t batch, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> coordinate(-1, 1);
  ModelInputs inputs;
  for (const InputSpec& input : spec.inputs) {
    std::vector<int64_t> shape{batch};
    if (input.kind == InputKind::kText) {
      shape.push_back(std::max<int64_t>(input.index_dims[0] - 3, 1));
      Array ids = Array::zeros(DType::kI64, shape);
      for (int64_t i = 0; i < ids.numel(); ++i) {
        ids.mutable_data<int64_t>()[i] =
            static_cast<int64_t>(generator() % static_cast<uint64_t>(input.vocab_size));
      }
      inputs.arrays[input.name] = ids;
      continue;
    }
    if (input.kind == InputKind::kSet) {
      shape.push_back(input.index_dims[0] - 2);
    } else if (input.kind == InputKind::kGrid) {
      shape.insert(shape.end(), input.index_dims.begin(), input.index_dims.end());
    }
    shape.push_back(input.coordinates + input.channels);
    Array values = Array::zeros(DType::kF32, shape);
    for (int64_t i = 0; i < values.numel(); ++i) {
      const bool is_coordinate = i % shape.back() < input.coordinates;
      values.mutable_data<float>()[i] = is_coordinate ? coordinate(generator) : normal(generator);
    }
    inputs.arrays[input.name] = values;
  }
  return inputs;
}

void mask_some(const ModelSpec& spec, ModelInputs& inputs, uint64_t seed) {
  std::mt19937_64 generator(seed);
  for (const TokenShape& tokens : resolve(spec).inputs) {
    const InputSpec& input = spec.input(tokens.name);
    const Array& given = inputs.arrays.at(tokens.name);
    const bool counted = input.kind == InputKind::kText || input.kind == InputKind::kSet;
    Array mask =
        Array::zeros(DType::kBool, {given.size(0), counted ? given.size(1) : tokens.tokens});
    for (int64_t i = 0; i < mask.numel(); ++i) {
      mask.mutable_data<bool>()[i] = generator() % 3 != 0;
    }
    inputs.masks[tokens.name] = mask;
  }
}

OutputRequest request_of(const ModelSpec& spec, int64_t batch, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  OutputRequest request;
  for (const OutputSpec& output : spec.outputs) {
    const bool coordinates = output.query == QueryKind::kCoordinates;
    if (!coordinates && output.query != QueryKind::kCaller) {
      continue;
    }
    const int64_t width =
        coordinates ? static_cast<int64_t>(output.index_dims.size()) : output.channels;
    Array rows = Array::zeros(DType::kF32, {batch, 11, width});
    for (int64_t i = 0; i < rows.numel(); ++i) {
      rows.mutable_data<float>()[i] = uniform(generator);
    }
    request.queries[output.name] = rows;
  }
  return request;
}

}  // namespace perceiver::runtime
