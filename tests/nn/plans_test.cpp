// As LibTorch was built: the layout of its RecordFunction, which one test uses, depends on it.
#ifndef NDEBUG
#define NDEBUG
#endif

#include <cctype>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/record_function.h>

#include "perceiver/nn/engine.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/parameters.h"

// Every plan computes the same numbers: textbook is the oracle of the others, for small versions of
// every family of released and published models.

namespace perceiver::nn {
namespace {

/// A model and a batch for it.
struct Family {
  std::string name;
  ModelSpec spec;
  TensorInputs inputs;
  TensorRequest request;
  bool factors = false;  ///< the encoder's or the decoder's rows lie on a grid
};

ModelSpec base(int64_t latents, int64_t channels, int64_t heads) {
  ModelSpec spec;
  spec.encoder = {.num_latents = latents,
                  .latent_channels = channels,
                  .cross_attend = {},
                  .self_attend = {.num_heads = 2}};
  spec.encoder.num_self_attends_per_block = 2;
  spec.encoder.cross_attend.num_heads = heads;
  return spec;
}

PositionSpec fourier(int64_t bands, bool concat = true) {
  return {.kind = PositionKind::kFourier,
          .num_bands = bands,
          .max_resolution = {},
          .concat_pos = concat};
}

InputSpec pixels(const std::string& name, std::vector<int64_t> extents, int64_t channels) {
  InputSpec input;
  input.name = name;
  input.index_dims = std::move(extents);
  input.channels = channels;
  input.position = fourier(3);
  return input;
}

OutputSpec grid_output(const std::string& name, std::vector<int64_t> extents) {
  OutputSpec output;
  output.name = name;
  output.query = QueryKind::kFourier;
  output.index_dims = std::move(extents);
  output.position = fourier(2);
  return output;
}

OutputSpec class_output(int64_t channels) {
  OutputSpec output;
  output.name = "class";
  output.index_dims = {1};
  output.channels = channels;
  output.single_row = true;
  return output;
}

at::Tensor noise(std::vector<int64_t> shape) {
  return at::randn(shape, at::kDouble);
}

at::Tensor some_true(std::vector<int64_t> shape, double share) {
  return at::rand(shape, at::kDouble) < share;
}

/// Pixels and Fourier positions in, a class out; one example of two partly masked.
Family image(int64_t heads = 1) {
  Family family{"image", base(5, 8, heads), {}, {}, true};
  family.spec.inputs = {pixels("image", {6, 4}, 3)};
  family.spec.outputs = {class_output(7)};
  family.spec.decoder.output_channels = 3;
  family.inputs.arrays["image"] = noise({2, 6, 4, 3});
  return family;
}

Family image_masked(MaskedRows rows) {
  Family family = image();
  family.name = rows == MaskedRows::kZero ? "masked, zero" : "masked, mean";
  family.spec.compatibility.masked_rows = rows;
  at::Tensor mask = some_true({2, 24}, 0.6);
  mask[1].fill_(false);  // nothing to attend to
  family.inputs.masks["image"] = mask;
  return family;
}

/// Several heads, sines only, positions without coordinates.
Family image_heads() {
  Family family = image(/*heads=*/2);
  family.name = "image, two heads";
  family.spec.inputs[0].channels = 1;
  family.spec.inputs[0].position.concat_pos = false;
  family.spec.inputs[0].position.sine_only = true;
  family.spec.inputs[0].position.num_bands = 2;
  family.spec.encoder.cross_attend.qk_channels = 8;
  family.inputs.arrays["image"] = noise({2, 6, 4, 1});
  family.spec.outputs = {grid_output("field", {3, 5})};
  family.spec.decoder.cross_attend.num_heads = 2;
  family.spec.decoder.cross_attend.qk_channels = 4;
  family.spec.decoder.cross_attend.v_channels = 6;
  return family;
}

Family learned_positions() {
  Family family = image();
  family.name = "learned positions";
  family.spec.inputs[0].position = {
      .kind = PositionKind::kTrainable, .num_channels = 5, .max_resolution = {}};
  family.factors = false;
  return family;
}

/// Patches of two frames, decoded at the places of the tokens themselves.
Family flow() {
  Family family{"flow", base(6, 8, 1), {}, {}, true};
  InputSpec input = pixels("frames", {2, 5, 4}, 3);
  input.stem = Stem::kPatches;
  input.downsample = {2, 1, 1};
  input.out_channels = 4;
  family.spec.inputs = {input};
  OutputSpec output;
  output.name = "flow";
  output.query = QueryKind::kInputTokens;
  output.index_dims = {5, 4};
  output.of_input = "frames";
  output.keep_grid = true;
  family.spec.outputs = {output};
  family.spec.decoder.output_channels = 2;
  family.inputs.arrays["frames"] = noise({2, 2, 5, 4, 3});
  return family;
}

Family flow_points(const std::string& name, std::vector<int64_t> points) {
  Family family = flow();
  family.name = name;
  family.request.points["flow"] = std::move(points);
  return family;
}

/// Video, sound and a label, padded to one width; some tokens of the video replaced.
Family multimodal(bool replaced) {
  Family family{
      replaced ? "multimodal, replaced tokens" : "multimodal", base(5, 8, 1), {}, {}, true};
  InputSpec video = pixels("video", {2, 3, 4}, 3), audio = pixels("audio", {8}, 1), label;
  audio.stem = Stem::kPatches;
  audio.downsample = {2};
  label.name = "label";
  label.kind = InputKind::kLabel;
  label.channels = 4;
  video.mask_probability = 0;
  label.mask_probability = 0;
  family.spec.inputs = {audio, label, video};
  family.spec.pad_inputs = true;
  OutputSpec sound = grid_output("audio", {4}), picture = grid_output("video", {2, 3, 4});
  sound.flatten_channels = true;
  picture.keep_grid = true;
  family.spec.outputs = {sound, class_output(6), picture};
  for (OutputSpec& output : family.spec.outputs) {
    output.head = HeadKind::kLinear;
    output.head_channels = 3;
  }
  family.spec.decoder.pad_queries = true;
  family.spec.decoder.output_channels = 6;
  family.inputs.arrays = {
      {"video", noise({2, 2, 3, 4, 3})}, {"audio", noise({2, 8, 1})}, {"label", noise({2, 4})}};
  at::Tensor mask = some_true({2, 24}, 0.5);
  mask[0].fill_(false);  // the rest of this example still counts
  family.inputs.masks["video"] = mask;
  if (replaced) {
    family.inputs.replaced = {{"video", some_true({2, 24}, 0.5)},
                              {"label", some_true({2, 1}, 0.5)}};
  }
  return family;
}

/// The original Perceiver: reads again after every block, answers with the mean of the latents.
Family original(bool shared) {
  Family family{shared ? "original, shared" : "original", base(5, 8, 1), {}, {}, true};
  family.spec.inputs = {pixels("image", {5, 4}, 2)};
  family.spec.encoder.num_blocks = 3;
  family.spec.encoder.num_cross_attends = 3;
  family.spec.encoder.share_first_cross_attend = shared;
  family.spec.decoder.kind = DecoderKind::kProjection;
  family.spec.decoder.output_channels = 4;
  OutputSpec output;
  output.name = "class";
  output.index_dims = {1};
  output.single_row = true;
  family.spec.outputs = {output};
  family.inputs.arrays["image"] = noise({2, 5, 4, 2});
  return family;
}

Family text() {
  Family family{"text", base(4, 8, 2), {}, {}, false};
  InputSpec input;
  input.name = "text";
  input.kind = InputKind::kText;
  input.index_dims = {12};
  input.vocab_size = 20;
  input.embedding_channels = 6;
  input.position = {.kind = PositionKind::kTrainable, .num_channels = 6, .max_resolution = {}};
  input.position.use = PositionUse::kAdd;
  family.spec.inputs = {input};
  family.spec.encoder.cross_attend.qk_channels = 4;
  family.spec.encoder.cross_attend.v_channels = 8;
  family.spec.decoder.cross_attend.num_heads = 2;
  family.spec.decoder.cross_attend.qk_channels = 4;
  family.spec.decoder.cross_attend.v_channels = 6;
  family.spec.decoder.final_project = false;
  OutputSpec output;
  output.name = "text";
  output.index_dims = {12};
  output.channels = 6;
  output.head = HeadKind::kTiedEmbedding;
  output.of_input = "text";
  family.spec.outputs = {output};
  family.inputs.arrays["text"] = at::randint(20, {2, 10}, at::kLong);
  at::Tensor mask = some_true({2, 10}, 0.7);
  mask[0].fill_(true);
  family.inputs.masks["text"] = mask;
  return family;
}

/// Elements without order, decoded at their own content.
Family entities() {
  Family family{"entities", base(4, 8, 1), {}, {}, false};
  InputSpec input;
  input.name = "entities";
  input.kind = InputKind::kSet;
  input.index_dims = {9};
  input.channels = 5;
  input.stem = Stem::kLinear;
  input.out_channels = 6;
  family.spec.inputs = {input};
  OutputSpec output;
  output.name = "entities";
  output.query = QueryKind::kInputContent;
  output.of_input = "entities";
  family.spec.outputs = {output};
  family.spec.decoder.final_project = false;
  family.inputs.arrays["entities"] = noise({2, 9, 5});
  return family;
}

/// Queries of content and positions with a residual, and masked ones among them.
Family residual_queries() {
  Family family = flow();
  family.name = "residual queries";
  OutputSpec output = grid_output("flow", {5, 4});
  output.of_input = "frames";
  output.concat_input = true;
  family.spec.outputs = {output};
  family.spec.decoder.cross_attend.use_query_residual = true;
  family.request.query_masks["flow"] = some_true({2, 20}, 0.5);
  return family;
}

std::vector<Family> families() {
  at::manual_seed(3);
  return {image(),
          image_masked(MaskedRows::kZero),
          image_masked(MaskedRows::kMean),
          image_heads(),
          learned_positions(),
          flow(),
          flow_points("flow, a run of points", {7, 8, 9, 10}),
          flow_points("flow, points", {3, 3, 19, 0}),
          multimodal(false),
          multimodal(true),
          original(false),
          original(true),
          text(),
          entities(),
          residual_queries()};
}

Model make_model(const ModelSpec& spec, ModelOptions options) {
  options.tables = DType::kF64;
  return Model(spec, random_parameters(spec, InitScheme::kTransformers, 11, 0.3), options);
}

/// Outputs, and gradients of parameters and inputs, of a fixed linear function of the outputs.
struct Result {
  TensorMap outputs, grads;
};

Result run(const Family& family, const ModelOptions& options) {
  Model model = make_model(family.spec, options);
  model.parameters().requires_grad(true);
  TensorInputs inputs = family.inputs;
  for (auto& [name, array] : inputs.arrays) {
    if (array.is_floating_point()) {
      array = array.detach().to(options.device, options.dtype).requires_grad_(true);
    }
  }
  Result result;
  result.outputs = model.forward(inputs, family.request);
  at::Tensor loss = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(options.device));
  for (const auto& [name, output] : result.outputs) {
    const at::Tensor weights =
        at::linspace(-1, 1, output.numel(), at::kDouble).cos().view(output.sizes());
    loss = loss + (output.to(at::kDouble) * weights.to(options.device)).sum();
  }
  loss.backward();
  for (const Parameters::Entry& entry : model.parameters().entries()) {
    if (entry.info.trainable) {
      result.grads[entry.info.name] = entry.tensor.grad();
    }
  }
  for (const auto& [name, array] : inputs.arrays) {
    if (array.is_floating_point()) {
      result.grads["input " + name] = array.grad();
    }
  }
  return result;
}

double largest(const at::Tensor& x) {
  return x.abs().max().item<double>();
}

void expect_same(const TensorMap& got, const TensorMap& wanted, double relative,
                 const std::string& where) {
  ASSERT_EQ(got.size(), wanted.size()) << where;
  double scale = 0;
  for (const auto& [name, tensor] : wanted) {
    scale = tensor.defined() ? std::max(scale, largest(tensor)) : scale;
  }
  for (const auto& [name, tensor] : wanted) {
    const at::Tensor& other = got.at(name);
    // a parameter that this batch does not reach (a mask token) has no gradient in any plan
    ASSERT_EQ(other.defined(), tensor.defined()) << where << ": " << name;
    if (tensor.defined()) {
      ASSERT_EQ(other.sizes(), tensor.sizes()) << where << ": " << name;
      // rounding noise of a gradient that is zero is not compared with itself
      const double allowed = relative * std::max(largest(tensor), 1e-3 * scale);
      EXPECT_LE(largest(other.detach().to(at::kCPU, at::kDouble) - tensor.detach().to(at::kDouble)),
                allowed)
          << where << ": " << name;
    }
  }
}

class PlansTest : public testing::TestWithParam<size_t> {
 protected:
  /// Outputs and gradients of `plans`, run as `options` say, against textbook in double on the CPU.
  void expect_near_textbook(std::initializer_list<Plan> plans, ModelOptions options,
                            double outputs_bar, double grads_bar) const {
    const Result wanted = run(family, textbook);
    for (const Plan plan : plans) {
      options.plan = plan;
      const Result got = run(family, options);
      const std::string where =
          family.name + (options.device.is_cpu() ? ", " : " on a GPU, ") + plan_name(plan);
      expect_same(got.outputs, wanted.outputs, outputs_bar, where);
      expect_same(got.grads, wanted.grads, grads_bar, where);
    }
  }

  const Family family = families()[GetParam()];
  const ModelOptions textbook{.dtype = at::kDouble, .plan = Plan::kTextbook};
};

TEST_P(PlansTest, AgreeWithTextbookInOutputsAndGradients) {
  expect_near_textbook({Plan::kAbsorbed, Plan::kFactored, Plan::kAuto}, {.dtype = at::kDouble},
                       1e-9, 1e-9);
}

TEST_P(PlansTest, InSinglePrecisionTheyStayNearDouble) {
  expect_near_textbook({Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}, {.dtype = at::kFloat},
                       1e-4, 2e-3);
}

TEST_P(PlansTest, RecomputedLayersChangeNothing) {
  const Result wanted = run(family, textbook);
  const Result got = run(family, {.dtype = at::kDouble, .recompute_layers = true});
  expect_same(got.outputs, wanted.outputs, 1e-9, family.name);
  expect_same(got.grads, wanted.grads, 1e-9, family.name);
}

TEST_P(PlansTest, OnAGpuTheyGiveTheSame) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  expect_near_textbook({Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored},
                       {.dtype = at::kDouble, .device = at::kCUDA}, 1e-9, 1e-9);
}

TEST_P(PlansTest, OnAGpuInSinglePrecisionTheyStayNearDouble) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  expect_near_textbook({Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored},
                       {.dtype = at::kFloat, .device = at::kCUDA}, 1e-4, 2e-3);
}

/// Counts, while it lives, what this thread copies between host and GPU or reads from a GPU.
class Crossings {
 public:
  Crossings()
      : handle_(
            at::addThreadLocalCallback(at::RecordFunctionCallback(&look).needsInputs(true).scopes(
                {at::RecordScope::FUNCTION}))) {
    count = 0;
  }
  Crossings(const Crossings&) = delete;
  Crossings& operator=(const Crossings&) = delete;
  ~Crossings() { at::removeCallback(handle_); }

  static thread_local int count;

 private:
  static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& call) {
    const std::string_view name = call.name();
    const auto on_gpu = [&](size_t i) { return call.inputs()[i].toTensor().is_cuda(); };
    if ((name == "aten::copy_" && on_gpu(0) != on_gpu(1)) ||
        (name == "aten::_local_scalar_dense" && on_gpu(0))) {
      ++count;
    }
    return nullptr;
  }

  at::CallbackHandle handle_;
};
thread_local int Crossings::count = 0;

TEST_P(PlansTest, OnAGpuNothingCrossesToTheHostAndBack) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  const at::NoGradGuard no_grad;
  const auto moved = [](TensorMap tensors) {
    for (auto& [name, tensor] : tensors) {
      tensor = tensor.to(at::kCUDA, tensor.is_floating_point() ? at::kFloat : tensor.scalar_type());
    }
    return tensors;
  };
  const TensorInputs inputs{moved(family.inputs.arrays), moved(family.inputs.masks),
                            moved(family.inputs.replaced)};
  TensorRequest request = family.request;
  request.points.clear();  // they are the caller's numbers on the host
  request.queries = moved(request.queries);
  request.query_masks = moved(request.query_masks);
  TensorRequest on_host = family.request;
  on_host.points.clear();
  const TensorMap wanted = make_model(family.spec, textbook).forward(family.inputs, on_host);
  for (const Plan plan : {Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    Model model = make_model(family.spec, {.device = at::kCUDA, .plan = plan});
    model.forward(inputs, request);  // makes the tables of the grids
    const TokenArray tokens = model.preprocess(inputs);
    TensorMap outputs;
    {
      const Crossings crossings;
      outputs = model.decode(model.encode(tokens), tokens, request);
      EXPECT_EQ(Crossings::count, 0) << family.name << ", " << plan_name(plan);
      at::zeros({1}).to(at::kCUDA).item<float>();
      EXPECT_EQ(Crossings::count, 2) << "the counter itself";
    }
    expect_same(outputs, wanted, 1e-4, family.name + " on a GPU, " + plan_name(plan));
  }
}

TEST_P(PlansTest, EveryChunkingOfTheOutputsGivesTheSameRows) {
  const at::NoGradGuard no_grad;
  const ModelOptions options{.dtype = at::kDouble, .plan = Plan::kFactored};
  Model model = make_model(family.spec, options);
  const TensorMap whole = model.forward(family.inputs, family.request);
  TensorRequest request = family.request;
  for (const int64_t rows : {1, 3, 7}) {
    request.rows_per_block = rows;
    expect_same(model.forward(family.inputs, request), whole, 1e-12, family.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PlansTest, testing::Range<size_t>(0, families().size()),
                         [](const testing::TestParamInfo<size_t>& at_index) {
                           std::string name = families()[at_index.param].name;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST(Plans, AreReportedByModelAndEngine) {
  const Family family = flow();
  const ArrayMap weights = random_parameters(family.spec, InitScheme::kTransformers, 11, 0.3);
  for (const Plan plan : {Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    const auto engine = make_engine(family.spec, weights,
                                    {.dtype = DType::kF64, .tables = DType::kF64, .plan = plan});
    ModelInputs inputs;
    inputs.arrays["frames"] = to_array(family.inputs.arrays.at("frames"));
    engine->forward(inputs);
    const std::vector<UsedPlan> used = engine->plans();
    ASSERT_EQ(used.size(), 3U);
    EXPECT_EQ(used[0].attention, "encoder.cross_attend.0");
    EXPECT_EQ(used[0].plan, plan_name(plan));
    EXPECT_EQ(used[1].attention, "encoder.self_attend");
    EXPECT_EQ(used[1].plan, "textbook");
    EXPECT_EQ(used[2].attention, "decoder.cross_attend");
    EXPECT_EQ(used[2].plan, plan_name(plan));
    EXPECT_GT(used[2].flops, 0);
  }
}

TEST(Plans, AttentionDropoutTakesTheTextbookOrder) {
  Family family = flow();
  family.spec.compatibility.attention_dropout = 0.5;
  Model model = make_model(family.spec, {.dtype = at::kDouble, .plan = Plan::kFactored});
  model.set_training(true);
  model.forward(family.inputs);
  for (const UsedPlan& used : model.plans()) {
    EXPECT_EQ(used.plan, "textbook");
    EXPECT_NE(used.reason.find("dropout"), std::string::npos);
  }
  model.set_training(false);
  model.forward(family.inputs);
  EXPECT_EQ(model.plans().at(0).plan, "factored");
}

TEST(Plans, LongOutputsAreMadeAgainBackwardInBlocks) {
  // enough rows for several blocks: see kRecomputeBlockBytes
  Family family = flow();
  family.spec.encoder.latent_channels = 64;
  family.spec.inputs[0].index_dims = {2, 150, 100};
  family.spec.outputs[0].index_dims = {150, 100};
  family.spec.encoder.num_latents = 2;
  family.inputs.arrays["frames"] = noise({4, 2, 150, 100, 3});
  const ModelOptions options{.dtype = at::kDouble, .plan = Plan::kFactored};
  const Result got = run(family, options);
  family.request.rows_per_block = 15000;  // given, so nothing is made again
  const Result wanted = run(family, options);
  expect_same(got.outputs, wanted.outputs, 1e-12, "blocks");
  expect_same(got.grads, wanted.grads, 1e-9, "blocks");
}

/// The derivative along `direction` of a tensor that the loss depends on.
double slope(Model& model, const Family& family, const at::Tensor& of, const at::Tensor& direction,
             const TensorInputs& inputs) {
  const at::NoGradGuard no_grad;
  const auto loss = [&] {
    double sum = 0;
    for (const auto& [name, output] : model.forward(inputs, family.request)) {
      sum += output.sin().sum().item<double>();
    }
    return sum;
  };
  constexpr double kStep = 1e-6;
  at::Tensor changed = of;
  changed.add_(direction, kStep);
  const double above = loss();
  changed.add_(direction, -2 * kStep);
  const double below = loss();
  changed.add_(direction, kStep);
  return (above - below) / (2 * kStep);
}

TEST(Plans, FactoredGradientsEqualFiniteDifferences) {
  const Family family = multimodal(/*replaced=*/false);  // has every term
  Model model = make_model(family.spec, {.dtype = at::kDouble, .plan = Plan::kFactored});
  model.parameters().requires_grad(true);
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const auto& [name, output] : model.forward(family.inputs, family.request)) {
    loss = loss + output.sin().sum();
  }
  loss.backward();
  for (const Parameters::Entry& entry : model.parameters().entries()) {
    if (!entry.info.trainable || !entry.tensor.grad().defined()) {
      continue;
    }
    const at::Tensor direction = noise(entry.tensor.sizes().vec());
    const double wanted = slope(model, family, entry.tensor, direction, family.inputs);
    const double got = (entry.tensor.grad() * direction).sum().item<double>();
    EXPECT_NEAR(got, wanted, 1e-6 * std::max(1.0, std::abs(wanted))) << entry.info.name;
  }
}

}  // namespace
}  // namespace perceiver::nn
