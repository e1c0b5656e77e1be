#include "perceiver/nn/model.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>

#include "nn/neighbours.h"
#include "perceiver/base/error.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/parameters.h"

// What must hold of any model, whatever its weights: rows do not depend on how they are asked for,
// examples not on their neighbours, results not on the order of an unordered input.

namespace perceiver::nn {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.name = "small";
  spec.encoder = {
      .num_latents = 5, .latent_channels = 8, .cross_attend = {}, .self_attend = {.num_heads = 2}};
  spec.encoder.num_blocks = 2;
  spec.encoder.num_self_attends_per_block = 2;
  return spec;
}

InputSpec image_input() {
  InputSpec input;
  input.name = "inputs";
  input.index_dims = {4, 6};
  input.channels = 3;
  input.position = {.kind = PositionKind::kFourier, .num_bands = 3, .max_resolution = {}};
  return input;
}

OutputSpec class_output(int64_t classes) {
  OutputSpec output;
  output.name = "logits";
  output.index_dims = {1};
  output.channels = 8;
  output.single_row = true;
  static_cast<void>(classes);
  return output;
}

ModelSpec image_classifier() {
  ModelSpec spec = small_spec();
  spec.inputs = {image_input()};
  spec.outputs = {class_output(7)};
  spec.decoder.output_channels = 7;
  return spec;
}

/// Image in, image out: Fourier queries over a grid of its own.
ModelSpec image_to_image() {
  ModelSpec spec = small_spec();
  spec.inputs = {image_input()};
  OutputSpec output;
  output.name = "logits";
  output.query = QueryKind::kFourier;
  output.index_dims = {5, 7};
  output.position = {.kind = PositionKind::kFourier, .num_bands = 2, .max_resolution = {}};
  output.keep_grid = true;
  output.whole_grid = AxisGrid::kHalfOpen;
  spec.outputs = {output};
  spec.decoder.output_channels = 2;
  return spec;
}

ModelSpec point_set() {
  ModelSpec spec = small_spec();
  InputSpec input;
  input.name = "inputs";
  input.kind = InputKind::kSet;
  input.index_dims = {20};
  input.coordinates = 3;
  input.channels = 2;
  input.position = {.kind = PositionKind::kFourier, .num_bands = 2, .max_resolution = {8, 8, 8}};
  spec.inputs = {input};
  spec.outputs = {class_output(4)};
  spec.decoder.output_channels = 4;
  return spec;
}

Model make_model(const ModelSpec& spec, uint64_t seed = 3) {
  ArrayMap weights = random_parameters(spec, InitScheme::kTransformers, seed, 0.3);
  return Model(spec, weights, {.dtype = at::kDouble, .tables = DType::kF64});
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

TEST(Model, BatchEqualsEachExampleAlone) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_classifier());
  const at::Tensor images = at::randn({3, 4, 6, 3}, at::kDouble);
  const at::Tensor together = model.forward({{{"inputs", images}}, {}, {}}).at("logits");
  ASSERT_EQ(together.sizes(), (at::IntArrayRef{3, 7}));
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor alone =
        model.forward({{{"inputs", images.narrow(0, i, 1)}}, {}, {}}).at("logits");
    EXPECT_LT(difference(together.narrow(0, i, 1), alone), 1e-12);
  }
}

TEST(Model, EveryChunkingOfTheOutputsGivesTheSameRows) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_to_image());
  const TensorInputs inputs{{{"inputs", at::randn({2, 4, 6, 3}, at::kDouble)}}, {}, {}};
  const at::Tensor whole = model.forward(inputs).at("logits");
  ASSERT_EQ(whole.sizes(), (at::IntArrayRef{2, 5, 7, 2}));
  for (const int64_t rows : {1, 3, 34, 35, 100}) {
    TensorRequest request;
    request.rows_per_block = rows;
    EXPECT_LT(difference(whole, model.forward(inputs, request).at("logits")), 1e-12) << rows;
  }
}

TEST(Model, AskedPointsAreRowsOfTheWholeInAnyOrderAndRepeated) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_to_image());  // its whole grid is half open, as points are
  const TensorInputs inputs{{{"inputs", at::randn({2, 4, 6, 3}, at::kDouble)}}, {}, {}};
  const at::Tensor whole = model.forward(inputs).at("logits").flatten(1, 2);
  TensorRequest request;
  request.points["logits"] = {34, 0, 7, 7};
  const at::Tensor some = model.forward(inputs, request).at("logits");
  EXPECT_LT(difference(some, whole.index_select(1, at::tensor({34, 0, 7, 7}, at::kLong))), 1e-12);
}

TEST(Model, AskedPointsOfAnInputAreRowsOfTheWhole) {
  const at::NoGradGuard no_grad;
  const PositionSpec fourier = image_input().position;
  PositionSpec added{.kind = PositionKind::kTrainable, .num_channels = 3, .max_resolution = {}};
  added.use = PositionUse::kAdd;
  for (const PositionSpec& position : {fourier, added}) {
    for (const bool replaced : {false, true}) {
      ModelSpec spec = image_to_image();
      spec.inputs[0].position = position;
      spec.inputs[0].mask_probability = replaced ? 0 : -1;
      spec.pad_inputs = replaced;
      spec.outputs[0].query = QueryKind::kInputTokens;
      spec.outputs[0].of_input = "inputs";
      spec.outputs[0].index_dims = {4, 6};
      spec.outputs[0].position = {};
      Model model = make_model(spec);
      TensorInputs inputs{{{"inputs", at::randn({2, 4, 6, 3}, at::kDouble)}}, {}, {}};
      if (replaced) {
        inputs.replaced["inputs"] = at::rand({2, 24}) < 0.5;
      }
      const at::Tensor whole = model.forward(inputs).at("logits").flatten(1, 2);
      TensorRequest request;
      request.points["logits"] = {23, 0, 7, 7, 11};
      request.rows_per_block = 2;
      const at::Tensor some = model.forward(inputs, request).at("logits");
      const at::Tensor wanted = whole.index_select(1, at::tensor({23, 0, 7, 7, 11}, at::kLong));
      EXPECT_LT(difference(some, wanted), 1e-12) << replaced;
    }
  }
}

TEST(Model, ASetHasNoOrder) {
  const at::NoGradGuard no_grad;
  Model model = make_model(point_set());
  const at::Tensor points = at::rand({2, 11, 5}, at::kDouble);
  const at::Tensor shuffled = points.index_select(1, at::randperm(11));
  EXPECT_LT(difference(model.forward({{{"inputs", points}}, {}, {}}).at("logits"),
                       model.forward({{{"inputs", shuffled}}, {}, {}}).at("logits")),
            1e-12);
}

TEST(Model, MaskedTokensDoNotCount) {
  const at::NoGradGuard no_grad;
  Model model = make_model(point_set());
  const at::Tensor points = at::rand({2, 11, 5}, at::kDouble);
  const at::Tensor padded = at::cat({points, at::randn({2, 6, 5}, at::kDouble)}, 1);
  const at::Tensor mask =
      at::cat({at::ones({2, 11}, at::kBool), at::empty({2, 6}, at::kBool).fill_(false)}, 1);
  EXPECT_LT(difference(model.forward({{{"inputs", points}}, {}, {}}).at("logits"),
                       model.forward({{{"inputs", padded}}, {{"inputs", mask}}, {}}).at("logits")),
            1e-12);
}

TEST(Model, FullyMaskedInputFollowsTheSwitch) {
  const at::NoGradGuard no_grad;
  const at::Tensor points = at::rand({1, 6, 5}, at::kDouble),
                   others = at::rand({1, 6, 5}, at::kDouble);
  const at::Tensor nothing = at::empty({1, 6}, at::kBool).fill_(false);
  ModelSpec spec = point_set();
  spec.compatibility.masked_rows = MaskedRows::kZero;  // then the answer can't depend on the input
  Model zero = make_model(spec);
  EXPECT_EQ(
      difference(zero.forward({{{"inputs", points}}, {{"inputs", nothing}}, {}}).at("logits"),
                 zero.forward({{{"inputs", others}}, {{"inputs", nothing}}, {}}).at("logits")),
      0);
  spec.compatibility.masked_rows = MaskedRows::kMean;  // the plain mean of the values
  Model mean = make_model(spec);
  EXPECT_GT(
      difference(mean.forward({{{"inputs", points}}, {{"inputs", nothing}}, {}}).at("logits"),
                 mean.forward({{{"inputs", others}}, {{"inputs", nothing}}, {}}).at("logits")),
      1e-6);
}

TEST(Model, MapsOfTheSameTokensLieInOneMemoryUnlessTheCallersIsUsed) {
  const ArrayMap weights = random_parameters(image_classifier(), InitScheme::kTransformers, 3, 0.3);
  const auto lie_together = [&](bool shares, const std::string& attention,
                                const std::vector<std::string>& maps) {
    const Model model(image_classifier(), weights, {.share_weights = shares});
    std::vector<at::Tensor> parts;
    for (const std::string& map : maps) {
      const std::string name = attention + "." + map + ".weight";
      parts.push_back(model.parameters().at(name));
      EXPECT_TRUE(parts.back().equal(to_tensor(weights.at(name)))) << name;
    }
    return as_rows(parts).defined();
  };
  const std::string self = "encoder.block.0.0", cross = "encoder.cross_attend.0";
  EXPECT_TRUE(lie_together(false, self, {"query", "key", "value"}));
  EXPECT_TRUE(lie_together(false, cross, {"key", "value"}));
  EXPECT_FALSE(lie_together(true, self, {"query", "key"}));
  EXPECT_FALSE(lie_together(true, self, {"key", "value"}));
}

TEST(Model, GradientsReachEveryParameterAndTheInput) {
  Model model = make_model(image_to_image());
  model.parameters().requires_grad(true);
  at::Tensor image = at::randn({2, 4, 6, 3}, at::kDouble).requires_grad_(true);
  model.forward({{{"inputs", image}}, {}, {}}).at("logits").pow(2).sum().backward();
  for (const Parameters::Entry& entry : model.parameters().entries()) {
    ASSERT_TRUE(entry.tensor.grad().defined()) << entry.info.name;
  }
  EXPECT_GT(image.grad().abs().max().item<double>(), 0);
}

TEST(Model, ReadsOtherGridSizesWhenNoTableIsTiedToOne) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_classifier());
  const at::Tensor wide = at::randn({1, 9, 5, 3}, at::kDouble);
  EXPECT_EQ(model.forward({{{"inputs", wide}}, {}, {}}).at("logits").sizes(),
            (at::IntArrayRef{1, 7}));
}

TEST(Model, LearnedPositionsAreResizedToOtherPlanes) {
  const at::NoGradGuard no_grad;
  ModelSpec spec = image_classifier();
  spec.inputs[0].position = {};
  spec.inputs[0].position.kind = PositionKind::kTrainable;
  spec.inputs[0].position.num_channels = 4;
  Model model = make_model(spec);
  EXPECT_EQ(model.forward({{{"inputs", at::randn({1, 8, 3, 3}, at::kDouble)}}, {}, {}})
                .at("logits")
                .size(1),
            7);
}

TEST(Model, AttentionMapsComeOnRequestAndSumToOne) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_classifier());
  TensorTrace trace{.attention = true, .only = {}, .tensors = {}};
  model.forward({{{"inputs", at::randn({2, 4, 6, 3}, at::kDouble)}}, {}, {}}, {}, &trace);
  ASSERT_EQ(trace.tensors.at("attention.encoder").sizes(), (at::IntArrayRef{2, 1, 5, 24}));
  ASSERT_EQ(trace.tensors.at("attention.self.3").sizes(), (at::IntArrayRef{2, 2, 5, 5}));
  ASSERT_EQ(trace.tensors.at("attention.decoder").sizes(), (at::IntArrayRef{2, 1, 1, 5}));
  EXPECT_LT((trace.tensors.at("attention.encoder").sum(-1) - 1).abs().max().item<double>(), 1e-12);
}

TEST(Model, TracesOnlyWhatIsAskedFor) {
  const at::NoGradGuard no_grad;
  Model model = make_model(image_classifier());
  TensorTrace trace{.attention = true, .only = {"attention.encoder", "latents.0"}, .tensors = {}};
  model.forward({{{"inputs", at::randn({2, 4, 6, 3}, at::kDouble)}}, {}, {}}, {}, &trace);
  ASSERT_EQ(trace.tensors.size(), 2U);
  EXPECT_TRUE(trace.tensors.contains("attention.encoder"));
  EXPECT_TRUE(trace.tensors.contains("latents.0"));
}

TEST(Model, CallersQueriesAndCoordinatesAreAnswered) {
  const at::NoGradGuard no_grad;
  ModelSpec spec = image_to_image();
  spec.outputs[0].query = QueryKind::kCoordinates;
  spec.outputs[0].position.max_resolution = {5, 7};
  spec.outputs[0].keep_grid = false;
  Model model = make_model(spec);
  TensorRequest request;
  request.queries["logits"] = at::rand({1, 4, 2}, at::kDouble);
  const TensorInputs inputs{{{"inputs", at::randn({1, 4, 6, 3}, at::kDouble)}}, {}, {}};
  EXPECT_EQ(model.forward(inputs, request).at("logits").sizes(), (at::IntArrayRef{1, 4, 2}));

  spec.outputs[0].query = QueryKind::kCaller;
  spec.outputs[0].position = {};
  spec.outputs[0].channels = 6;
  Model caller = make_model(spec);
  request.queries["logits"] = at::randn({1, 3, 6}, at::kDouble);
  EXPECT_EQ(caller.forward(inputs, request).at("logits").sizes(), (at::IntArrayRef{1, 3, 2}));
}

TEST(Model, CoordinatesWithoutAResolutionTakeTheGridsOwn) {
  const at::NoGradGuard no_grad;
  ModelSpec spec = image_to_image();
  spec.outputs[0].query = QueryKind::kCoordinates;
  spec.outputs[0].keep_grid = false;
  TensorRequest request;
  request.queries["logits"] = at::rand({1, 4, 2}, at::kDouble);
  const TensorInputs inputs{{{"inputs", at::randn({1, 4, 6, 3}, at::kDouble)}}, {}, {}};
  Model unstated = make_model(spec);
  spec.outputs[0].position.max_resolution = {5, 7};
  Model stated = make_model(spec);
  EXPECT_EQ(difference(unstated.forward(inputs, request).at("logits"),
                       stated.forward(inputs, request).at("logits")),
            0);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Model, WrongInputsNameTheModalityAndBothShapes) {
  Model model = make_model(image_classifier());
  const auto run = [&](const at::Tensor& x) {
    return message_of([&] { model.forward({{{"inputs", x}}, {}, {}}); });
  };
  EXPECT_EQ(run(at::ones({1, 4, 6, 2})),
            "[input inputs] expected [B] + [4, 6, 3], got [1, 4, 6, 2]");
  EXPECT_EQ(message_of([&] { model.forward({}); }), "[input inputs] is missing");
  EXPECT_NE(message_of([&] {
              model.forward({{{"sound", at::ones({1})}}, {}, {}});
            }).find("sound"),
            std::string::npos);
  EXPECT_NE(
      message_of([&] {
        model.forward({{{"inputs", at::ones({1, 4, 6, 3})}}, {{"inputs", at::ones({1, 23})}}, {}});
      }).find("[1, 24]"),
      std::string::npos);
}

}  // namespace
}  // namespace perceiver::nn
