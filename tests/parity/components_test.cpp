#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "nn/decoder.h"
#include "parity/oracle.h"
#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/attention.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/tokens/patches.h"
#include "perceiver/tokens/positions.h"
#include "support/compare.h"
#include "support/shared.h"

// Single pieces against what DeepMind's modules gave for them: position tables, rearrangements,
// attention, every image and sound preprocessor variant, upsampling heads, decoders that
// concatenate inputs.

namespace perceiver::parity {
namespace {

using nn::to_array;
using nn::to_tensor;

/// One case of the recording, by its name.
class Component {
 public:
  Component(const std::filesystem::path& folder, std::string name)
      : arrays_(io::read_safetensors(folder / "io.safetensors")), name_(std::move(name)) {}

  const Array& in(const std::string& what) const { return arrays_.at("in." + name_ + "." + what); }
  const Array& f32(const std::string& what) const {
    return arrays_.at("f32." + name_ + "." + what);
  }
  const Array& f64(const std::string& what) const {
    return arrays_.at("f64." + name_ + "." + what);
  }
  /// A parameter with its axes in another order.
  Array param(const std::string& path, const std::vector<int64_t>& axes = {}) const {
    const at::Tensor given = to_tensor(in("params:" + path));
    return to_array(axes.empty() ? given : given.permute(axes).contiguous());
  }
  /// Linear {w, b} of a module as ours.weight and ours.bias.
  void linear(ArrayMap& weights, const std::string& ours, const std::string& module) const {
    weights[ours + ".weight"] = param(module + "/w", {1, 0});
    weights[ours + ".bias"] = param(module + "/b");
  }
  void norm(ArrayMap& weights, const std::string& ours, const std::string& module) const {
    weights[ours + ".weight"] = param(module + "/scale");
    weights[ours + ".bias"] = param(module + "/offset");
  }
  /// All tensors of one attention module.
  void attention(ArrayMap& weights, const std::string& ours, const std::string& module,
                 bool cross) const {
    norm(weights, ours + ".norm_queries", module + "/layer_norm");
    if (cross) {
      norm(weights, ours + ".norm_inputs", module + "/layer_norm_1");
    }
    norm(weights, ours + ".norm_mlp", module + (cross ? "/layer_norm_2" : "/layer_norm_1"));
    linear(weights, ours + ".query", module + "/attention/linear");
    linear(weights, ours + ".key", module + "/attention/linear_1");
    linear(weights, ours + ".value", module + "/attention/linear_2");
    linear(weights, ours + ".output", module + "/attention/linear_3");
    linear(weights, ours + ".mlp_in", module + "/mlp/linear");
    linear(weights, ours + ".mlp_out", module + "/mlp/linear_1");
  }

 private:
  ArrayMap arrays_;
  std::string name_;
};

void expect_exact(const Array& ours, const Array& wanted, double bar = 1e-10) {
  const test::Difference apart = test::difference(ours, wanted);
  EXPECT_LE(apart.max_abs, bar * test::max_abs(wanted)) << apart.text;
}

PositionSpec fourier(int64_t bands, std::vector<int64_t> max_resolution = {}) {
  PositionSpec position;
  position.kind = PositionKind::kFourier;
  position.num_bands = bands;
  position.max_resolution = std::move(max_resolution);
  return position;
}

/// The smallest model around one input, as DeepMind computes.
ModelSpec around(InputSpec input) {
  ModelSpec spec;
  input.name = "x";
  spec.inputs = {std::move(input)};
  spec.encoder.num_latents = 1;
  spec.encoder.latent_channels = 8;
  spec.encoder.num_self_attends_per_block = 1;
  spec.decoder.output_channels = 1;
  OutputSpec output;
  output.name = "y";
  output.index_dims = {1};
  output.channels = 8;
  spec.outputs = {output};
  spec.compatibility.activation = Activation::kGeluTanh;
  return spec;
}

ArrayMap any_weights(const ModelSpec& spec) {
  return random_parameters(spec, InitScheme::kDeepMind, 1);
}

/// Tokens of a model whose input tensors are `weights`, float64 and float32.
void expect_tokens(const Component& component, const ModelSpec& spec, const ArrayMap& weights) {
  ArrayMap all = any_weights(spec);
  for (const auto& [name, array] : weights) {
    ASSERT_EQ(all.at(name).shape(), array.shape()) << name;
    all[name] = array;
  }
  ModelInputs inputs;
  inputs.arrays["x"] = component.in("in0");
  OracleCall call;
  call.f32["tokens"] = component.f32("preprocessed");
  call.f64["tokens"] = component.f64("preprocessed");
  expect_same_stages(call, run_ours(spec, all, inputs));
}

InputSpec grid_input(std::vector<int64_t> extents, int64_t channels, Stem stem,
                     std::vector<int64_t> downsample) {
  InputSpec input;
  input.index_dims = std::move(extents);
  input.channels = channels;
  input.stem = stem;
  input.downsample = std::move(downsample);
  return input;
}

#define COMPONENT_OR_SKIP(variable, name)                           \
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/deepmind/components"); \
  const Component variable(folder, name)

struct TableCase {
  const char* name;
  std::vector<int64_t> index_dims;
  PositionSpec position;
  std::vector<int64_t> rows;
  AxisGrid grid = AxisGrid::kInclusive;
};

std::vector<TableCase> table_cases() {
  PositionSpec sine_only = fourier(3, {6, 6});
  sine_only.sine_only = true;
  PositionSpec no_coordinates = fourier(3, {6, 6});
  no_coordinates.concat_pos = false;
  return {
      {"1d", {5}, fourier(3, {8}), {}},
      {"2d", {4, 6}, fourier(4, {7, 9}), {}},
      {"2d_default_res", {4, 6}, fourier(4), {}},
      {"3d_size1", {3, 1, 4}, fourier(2, {5, 6, 7}), {}},
      {"2d_sine_only", {3, 4}, sine_only, {}},
      {"2d_no_pos", {3, 4}, no_coordinates, {}},
      {"1d_one_band", {4}, fourier(1, {9}), {}},
      {"audio_released", {1920}, fourier(192, {30720}), {0, 1, 2, 959, 960, 1600, 1919}},
      {"image224_released", {224, 224}, fourier(64), {0, 1, 223, 224, 25000, 50175}},
      {"image56_released", {56, 56}, fourier(64), {0, 55, 56, 1600, 3135}},
      {"video_released", {16, 56, 56}, fourier(32), {0, 57, 3136, 50175}},
      {"flow_released", {368, 496}, fourier(64), {0, 495, 496, 100001, 182527}},
      {"audio_query_released",
       {1920},
       fourier(192, {30720}),
       {0, 1, 1000, 1919},
       AxisGrid::kHalfOpen},
      {"video_query_released",
       {16, 224, 224},
       fourier(32, {16, 56, 56}),
       {0, 223, 224, 50176, 802815},
       AxisGrid::kHalfOpen},
  };
}

class FourierTableShared : public ::testing::TestWithParam<TableCase> {};

TEST_P(FourierTableShared, IsTheirs) {
  const TableCase& c = GetParam();
  COMPONENT_OR_SKIP(component, "fourier");
  const auto ours = [&](DType dtype) {
    const tokens::SeparablePositions grid =
        tokens::fourier_grid(c.position, c.index_dims, c.grid, dtype);
    return c.rows.empty() ? grid.dense() : grid.rows(c.rows);
  };
  const Array& exact = component.f64(c.name);
  expect_exact(ours(DType::kF64),
               exact);  // pi * 15360 turns a last bit of jax's linspace into 1e-11
  // Neither library is right to the last bit here; jax and torch round differently by as much.
  const double their_error = test::difference(component.f32(c.name), exact).max_abs;
  const test::Difference apart = test::difference(ours(DType::kF32), exact);
  EXPECT_LE(apart.max_abs, 2 * their_error + 1e-6) << apart.text;
}

INSTANTIATE_TEST_SUITE_P(Components, FourierTableShared, ::testing::ValuesIn(table_cases()),
                         [](const auto& each) { return std::string("_") + each.param.name; });

TEST(RearrangementShared, SpaceToDepthAndBack) {
  COMPONENT_OR_SKIP(deep, "s2d");
  const Component wide(folder, "d2s");
  expect_exact(tokens::space_to_depth(deep.in("image"), {2, 2}), deep.f32("image_block2"), 0);
  expect_exact(tokens::space_to_depth(deep.in("video"), {2, 2, 2}), deep.f32("video_t2_s2"), 0);
  const Array& both = wide.in("image_or_video");
  expect_exact(tokens::depth_to_space(both.reshape({1, 2, 3, 24}), {2, 2}),
               wide.f32("image_block2"), 0);
  expect_exact(tokens::depth_to_space(both, {2, 2, 2}), wide.f32("video_t2_s2"), 0);
}

TEST(AttendShared, MaskedScoresAndRowsWithoutAnyKey) {
  COMPONENT_OR_SKIP(component, "attend");
  const at::NoGradGuard no_grad;
  // Their mask is per query; ours per key, so each of the 2 x 3 queries becomes a batch of its own.
  const auto per_query = [](const at::Tensor& keys) {
    return keys.unsqueeze(1).expand({2, 3, 5, 2, -1}).reshape({6, 5, -1}).to(at::kDouble);
  };
  const at::Tensor q = to_tensor(component.in("q")).reshape({6, 1, 8}).to(at::kDouble);
  const at::Tensor k = per_query(to_tensor(component.in("k")));
  const at::Tensor v = per_query(to_tensor(component.in("v")));
  const at::Tensor mask = to_tensor(component.in("mask")).reshape({6, 5}).to(at::kBool);
  nn::AttendOptions options;
  options.num_heads = 2;
  expect_exact(to_array(nn::attend(q, k, v, {}, options).view({2, 3, 12})),
               component.f64("unmasked"));
  expect_exact(to_array(nn::attend(q, k, v, mask, options).view({2, 3, 12})),
               component.f64("masked"));
}

nn::Parameters double_parameters(const ArrayMap& weights) {
  nn::Parameters parameters;
  for (const auto& [name, array] : weights) {
    parameters.add({.name = name, .shape = array.shape()}, to_tensor(array).to(at::kDouble));
  }
  return parameters;
}

/// DeepMind's activation.
Compatibility tanh_gelu() {
  Compatibility compatibility;
  compatibility.activation = Activation::kGeluTanh;
  return compatibility;
}

TEST(AttentionModuleShared, QueryShapeWideningAndNoResidual) {
  COMPONENT_OR_SKIP(component, "cross_attention_q_shape");
  ArrayMap weights;
  component.attention(weights, "a", "cross_attention", true);
  const AttentionShape shape{.query_channels = 6,
                             .input_channels = 10,
                             .num_heads = 2,
                             .qk_channels = 6,
                             .v_channels = 6,
                             .output_channels = 6,
                             .mlp_channels = 18,
                             .use_query_residual = false};
  const at::NoGradGuard no_grad;
  const nn::Parameters parameters = double_parameters(weights);
  const nn::AttentionModule module(parameters, "a", shape, tanh_gelu());
  const at::Tensor inputs = to_tensor(component.in("in1")).to(at::kDouble);
  const at::Tensor queries = to_tensor(component.in("in0")).to(at::kDouble);
  const at::Tensor attended = module.attend_to(queries, module.keys_values(inputs), {}, false);
  const at::Tensor out = module.finish(attended, queries, /*projected=*/false, false);
  expect_exact(to_array(out), component.f64("out"));
}

TEST(AttentionModuleShared, SelfAttentionWithOtherQueryAndValueWidths) {
  COMPONENT_OR_SKIP(component, "self_attention_wide");
  ArrayMap weights;
  component.attention(weights, "a", "self_attention", false);
  const AttentionShape shape{.query_channels = 6,
                             .input_channels = 6,
                             .num_heads = 2,
                             .qk_channels = 8,
                             .v_channels = 6,
                             .output_channels = 6,
                             .mlp_channels = 24,
                             .use_query_residual = true,
                             .self = true};
  const at::NoGradGuard no_grad;
  const nn::Parameters parameters = double_parameters(weights);
  const nn::AttentionModule module(parameters, "a", shape, tanh_gelu());
  expect_exact(to_array(module.self_attend(to_tensor(component.in("in0")).to(at::kDouble), false)),
               component.f64("out"));
}

TEST(PreprocessorShared, StridedOneByOneConvolution) {
  COMPONENT_OR_SKIP(component, "image_pre_conv1x1_stride");
  InputSpec input = grid_input({5, 6}, 3, Stem::kConv1x1, {2, 2});
  input.out_channels = 5;
  input.position = fourier(2);
  ArrayMap weights;
  weights["inputs.x.stem.weight"] = component.param("image_preprocessor/~/conv2_d/w", {3, 2, 0, 1});
  weights["inputs.x.stem.bias"] = component.param("image_preprocessor/~/conv2_d/b");
  expect_tokens(component, around(input), weights);
}

TEST(PreprocessorShared, TwoConvolutionLayersWithoutBatchNorm) {
  COMPONENT_OR_SKIP(component, "image_pre_conv_2layers");
  InputSpec input = grid_input({37, 30}, 3, Stem::kConv, {});
  input.out_channels = 4;
  input.num_conv_layers = 2;
  input.batch_norm = false;
  input.position = fourier(2);
  const std::string stem = "image_preprocessor/~/conv2_d_downsample/~/";
  ArrayMap weights;
  weights["inputs.x.conv.0.weight"] = component.param(stem + "conv/w", {3, 2, 0, 1});
  weights["inputs.x.conv.1.weight"] = component.param(stem + "conv_1/w", {3, 2, 0, 1});
  expect_tokens(component, around(input), weights);
}

TEST(PreprocessorShared, ConvolutionFrameByFrame) {
  COMPONENT_OR_SKIP(component, "image_pre_conv_video");
  InputSpec input = grid_input({2, 11, 10}, 3, Stem::kConv, {});
  input.out_channels = 4;
  input.position = fourier(2);
  const std::string stem = "image_preprocessor/~/conv2_d_downsample/~/";
  ArrayMap weights;
  weights["inputs.x.conv.0.weight"] = component.param(stem + "conv/w", {3, 2, 0, 1});
  weights["inputs.x.batch_norm.0.weight"] = component.param(stem + "batchnorm/scale").reshape({4});
  weights["inputs.x.batch_norm.0.bias"] = component.param(stem + "batchnorm/offset").reshape({4});
  const std::string state = "state:" + stem + "batchnorm/~/";
  weights["inputs.x.batch_norm.0.running_mean"] =
      component.in(state + "mean_ema/average").reshape({4});
  weights["inputs.x.batch_norm.0.running_var"] =
      component.in(state + "var_ema/average").reshape({4});
  expect_tokens(component, around(input), weights);
}

TEST(PreprocessorShared, PatchesWithAddedLearnedPositionsAndAnExtraLinear) {
  COMPONENT_OR_SKIP(component, "image_pre_patches_add");
  InputSpec input = grid_input({4, 6}, 3, Stem::kPatches, {2, 2});
  input.out_channels = 6;
  input.position.kind = PositionKind::kTrainable;
  input.position.num_channels = 6;
  input.position.num_extra_linears = 1;
  input.position.use = PositionUse::kAdd;
  ArrayMap weights;
  component.linear(weights, "inputs.x.stem", "image_preprocessor/patches_linear");
  component.linear(weights, "inputs.x.position.extra.0",
                   "image_preprocessor/~_build_network_inputs/linear");
  weights["inputs.x.position.table"] = component.param(
      "image_preprocessor/~_build_network_inputs/trainable_position_encoding/pos_embs");
  expect_tokens(component, around(input), weights);
}

TEST(PreprocessorShared, StridedPixelsOfAVideo) {
  COMPONENT_OR_SKIP(component, "image_pre_pixels_video");
  InputSpec input = grid_input({5, 5, 4}, 3, Stem::kPixels, {3, 2, 2});
  input.position = fourier(2);
  expect_tokens(component, around(input), {});
}

TEST(PreprocessorShared, SoundWithProjectedLearnedPositions) {
  COMPONENT_OR_SKIP(component, "audio_pre_trainable");
  InputSpec input = grid_input({24}, 1, Stem::kPatches, {4});
  input.position.kind = PositionKind::kTrainable;
  input.position.num_channels = 3;
  input.position.project_channels = 5;
  const std::string module = "audio_preprocessor/~_build_network_inputs/";
  ArrayMap weights;
  component.linear(weights, "inputs.x.position.projection",
                   module + "position_encoding_projector/linear");
  weights["inputs.x.position.table"] =
      component.param(module + "trainable_position_encoding/pos_embs");
  expect_tokens(component, around(input), weights);
}

/// What a head makes of decoded rows, in float64.
Array run_head(const ModelSpec& spec, const ArrayMap& weights, const Array& rows) {
  const at::NoGradGuard no_grad;
  ArrayMap all = any_weights(spec);
  for (const auto& [name, array] : weights) {
    EXPECT_EQ(all.at(name).shape(), array.shape()) << name;
    all[name] = array;
  }
  nn::Model model(spec, all, {.dtype = at::kDouble, .tables = DType::kF64});
  const ModelSpec& kept = model.spec();
  nn::GridTablesCache grids;
  const nn::StemContext context{kept,  model.shape(), model.parameters(),
                                false, DType::kF64,   at::TensorOptions().dtype(at::kDouble),
                                grids};
  const OutputSpec& output = kept.outputs[0];
  const nn::QueryRows queries(context, output, {}, {}, rows.size(0));
  const at::Tensor projected = nn::head_rows(context, output, to_tensor(rows).to(at::kDouble));
  return to_array(nn::shape_output(context, output, queries, projected));
}

ModelSpec head_spec(HeadKind head, std::vector<int64_t> grid, int64_t width, int64_t channels,
                    std::vector<int64_t> factors) {
  ModelSpec spec = around(grid_input({2}, 1, Stem::kPixels, {}));
  spec.decoder.final_project = false;
  OutputSpec& output = spec.outputs[0];
  output.index_dims = std::move(grid);
  output.channels = width;
  output.head = head;
  output.head_channels = channels;
  output.head_factors = std::move(factors);
  output.keep_grid = true;
  return spec;
}

/// Haiku's transposed convolution correlates with the unflipped kernel, torch with the flipped one;
/// [k..., out, in] -> [in, out, k...].
Array transposed_kernel(const Array& kernel) {
  const at::Tensor given = to_tensor(kernel);
  std::vector<int64_t> axes, spatial{given.dim() - 1, given.dim() - 2};
  for (int64_t axis = 0; axis + 2 < given.dim(); ++axis) {
    axes.push_back(axis);
    spatial.push_back(axis);
  }
  return to_array(given.flip(axes).permute(spatial).contiguous());
}

TEST(HeadShared, OneByOneConvolutionIsALinear) {
  COMPONENT_OR_SKIP(component, "image_post_conv1x1");
  ArrayMap weights;
  weights["outputs.y.head.weight"] =
      component.param("image_postprocessor/~/conv2_d/w", {3, 2, 0, 1}).reshape({4, 5});
  weights["outputs.y.head.bias"] = component.param("image_postprocessor/~/conv2_d/b");
  expect_exact(
      run_head(head_spec(HeadKind::kLinear, {2, 3}, 5, 4, {}), weights, component.in("in0")),
      component.f64("out"));
}

TEST(HeadShared, UpsamplingConvolutionOfAnImage) {
  COMPONENT_OR_SKIP(component, "image_post_conv2d");
  const std::string module = "image_postprocessor/~/conv2_d_upsample/~/transp_conv_";
  ArrayMap weights;
  for (const int layer : {0, 1}) {
    const std::string ours = cat("outputs.y.head.", layer);
    weights[ours + ".weight"] = transposed_kernel(component.param(cat(module, layer + 1, "/w")));
    weights[ours + ".bias"] = component.param(cat(module, layer + 1, "/b"));
  }
  expect_exact(run_head(head_spec(HeadKind::kConvUpsample, {2, 3}, 5, 3, {4, 4}), weights,
                        component.in("in0")),
               component.f64("out"));
}

TEST(HeadShared, UpsamplingConvolutionOfAVideo) {
  COMPONENT_OR_SKIP(component, "image_post_conv3d");
  const std::string module = "image_postprocessor/~/conv3_d_upsample/conv3d_transpose_";
  ArrayMap weights;
  for (const int layer : {0, 1}) {
    const std::string ours = cat("outputs.y.head.", layer);
    weights[ours + ".weight"] = transposed_kernel(component.param(cat(module, layer, "/w")));
    weights[ours + ".bias"] = component.param(cat(module, layer, "/b"));
  }
  expect_exact(run_head(head_spec(HeadKind::kConvUpsample, {2, 2, 3}, 4, 2, {2, 4, 4}), weights,
                        component.in("in0")),
               component.f64("out"));
}

/// A decoder whose queries are input content beside the Fourier grid of (3, 4).
struct ConcatDecoder {
  ModelSpec spec;
  ArrayMap weights;

  explicit ConcatDecoder(const Component& component)
      : spec(around(grid_input({3, 4}, 3, Stem::kPixels, {}))) {
    spec.encoder.num_latents = 4;
    spec.decoder.cross_attend = {
        .num_heads = 3, .qk_channels = 6, .v_channels = 9, .use_query_residual = true};
    spec.decoder.output_channels = 5;
    OutputSpec& output = spec.outputs[0];
    output.query = QueryKind::kFourier;
    output.channels = 0;
    output.index_dims = {3, 4};
    output.position = fourier(2);
    output.of_input = "x";
    output.concat_input = true;
    weights = any_weights(spec);
    component.attention(weights, "decoder.cross_attend", "basic_decoder/cross_attention", true);
    component.linear(weights, "decoder.final", "basic_decoder/output");
  }

  /// @param content [B, 12, 3]
  void expect(const Component& component, const at::Tensor& content,
              const nn::TensorRequest& request, const char* expected) {
    const at::NoGradGuard no_grad;
    nn::Model model(spec, weights, {.dtype = at::kDouble, .tables = DType::kF64});
    nn::TokenSegment segment;
    segment.modality = "x";
    segment.index_dims = {3, 4};
    segment.tokens = 12;
    segment.content = content;
    nn::TensorTrace trace;
    const at::Tensor out =
        model.decode(to_tensor(component.in("in1")).to(at::kDouble), {{segment}}, request, &trace)
            .at("y");
    expect_exact(to_array(trace.tensors.at("decoder_queries")), component.f64("query"));
    expect_exact(to_array(out), component.f64(expected));
  }
};

TEST(DecoderShared, ConcatenatesInputsAndHonoursItsQueryMask) {
  COMPONENT_OR_SKIP(component, "decoder_concat_inputs");
  nn::TensorRequest request;
  request.query_masks["y"] = to_tensor(component.in("in3")).to(at::kBool);
  ConcatDecoder(component).expect(component, to_tensor(component.in("in0")).to(at::kDouble),
                                  request, "out_masked");
}

TEST(DecoderShared, ConcatenatesInputsAtChosenPoints) {
  COMPONENT_OR_SKIP(component, "decoder_concat_inputs_points");
  // Theirs takes the content of the four points only; ours picks it from the whole input.
  nn::TensorRequest request;
  request.points["y"] = {3, 0, 11, 7};
  at::Tensor content = at::zeros({2, 12, 3}, at::kDouble);
  const at::Tensor given = to_tensor(component.in("in0"));
  for (int64_t i = 0; i < 4; ++i) {
    content.select(1, request.points["y"][static_cast<size_t>(i)]).copy_(given.select(1, i));
  }
  ConcatDecoder(component).expect(component, content, request, "out");
}

}  // namespace
}  // namespace perceiver::parity
