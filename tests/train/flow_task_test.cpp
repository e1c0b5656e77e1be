#include <algorithm>
#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/flow.h"
#include "train/data/flow_set.h"
#include "train/flow_loss.h"
#include "train/flow_tiny.h"
#include "train/initial.h"
#include "train/tasks/flow_errors.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::flow_recipe;
using test::metric;
using test::pixel_flow_recipe;
using test::tiny_pair;

class FlowTraining : public test::Runs {
 protected:
  Batch batch_of(const Json& json, int64_t index) {
    const Recipe recipe = read(json);
    return recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest)
        ->training_batch(index);
  }

  void expect_refused(const Json& json, const std::string& message) {
    test::expect_error([&] { run(json, "refused"); }, message);
    EXPECT_TRUE(losses_.empty());
  }
};

bool has(const Metrics& metrics, const std::string& name) {
  return std::any_of(metrics.begin(), metrics.end(),
                     [&](const auto& entry) { return entry.first == name; });
}

TEST(FlowLoss, LengthsByHand) {
  at::Tensor estimate = at::zeros({1, 3, 2});
  estimate[0][0][0] = 3;
  estimate[0][0][1] = 4;
  estimate[0][1][0] = 100;
  const at::Tensor truth = at::zeros({1, 3, 2});
  at::Tensor counts = at::ones({1, 3}).to(at::kBool);
  counts[0][1] = false;
  FlowLossSpec spec;
  EXPECT_NEAR(flow_loss(spec, estimate, truth, counts).item<double>(), 2.5, 1e-5);
  spec.kind = FlowLossKind::kL1;
  EXPECT_NEAR(flow_loss(spec, estimate, truth, counts).item<double>(), 3.5, 1e-5);
  spec.kind = FlowLossKind::kRobust;
  EXPECT_NEAR(flow_loss(spec, estimate, truth, counts).item<double>(),
              (std::pow(7.01, 0.4) + std::pow(0.01, 0.4)) / 2, 1e-5);
}

TEST(FlowLoss, NothingThatCountsGivesAZeroGradient) {
  const at::Tensor estimate = at::zeros({1, 2, 2}).requires_grad_(true);
  const at::Tensor none = at::zeros({1, 2}).to(at::kBool);
  for (const FlowLossKind kind :
       {FlowLossKind::kEndPoint, FlowLossKind::kL1, FlowLossKind::kRobust}) {
    FlowLossSpec spec;
    spec.kind = kind;
    const at::Tensor loss = flow_loss(spec, estimate, at::zeros({1, 2, 2}), none);
    EXPECT_EQ(loss.item<double>(), 0);
    loss.backward();
    EXPECT_EQ(estimate.grad().abs().sum().item<double>(), 0);
  }
}

TEST(FlowErrors, CountsAsTheBenchmarksDo) {
  // four pixels: right; 2 off; 4 off of 200 (2 %); 4 off of 12; the fifth is not valid
  FlowPair truth;
  truth.flow = io::make_flow(Array::of<float>({1, 5, 2}, {1, 0, 0, 0, 0, 200, 12, 0, 50, 50}));
  truth.flow.valid.mutable_data<bool>()[4] = false;
  truth.occluded = Array::zeros(DType::kBool, {1, 5});
  truth.occluded.mutable_data<bool>()[1] = true;
  FlowErrors errors;
  errors.add(Array::of<float>({1, 5, 2}, {1, 0, 0, 2, 4, 200, 16, 0, 0, 0}), truth);
  const Metrics metrics = errors.metrics();
  EXPECT_DOUBLE_EQ(metric(metrics, "epe"), 2.5);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_frames"), 2.5);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_occluded"), 2);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_unoccluded"), 8.0 / 3);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_s0_10"), 1);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_s10_40"), 4);
  EXPECT_DOUBLE_EQ(metric(metrics, "epe_s40"), 4);
  EXPECT_DOUBLE_EQ(metric(metrics, "fl_all"), 0.25);
  EXPECT_DOUBLE_EQ(metric(metrics, "within_1px"), 0.25);
  EXPECT_DOUBLE_EQ(metric(metrics, "zero_epe"), (1.0 + 0 + 200 + 12) / 4);
}

TEST_F(FlowTraining, LearnsWhereABackgroundMoves) {
  Json json = flow_recipe();
  json["steps"] = 250;
  json["optimiser"]["learning_rate"] = 0.006;
  json["data"]["train"][0]["examples"] = 8;
  json["data"]["test"] = json["data"]["train"];
  run(json, "out");
  EXPECT_LT(losses_.back(), 0.6 * losses_.front());  // learnt by heart
}

TEST_F(FlowTraining, StartsAtNoFlow) {
  for (const Json& json : {flow_recipe(), pixel_flow_recipe()}) {
    const Recipe recipe = read(json);
    const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTestOnly);
    nn::Model model(recipe.model, initial_weights(recipe));
    const Metrics metrics = task->evaluate(model, 3, {});
    EXPECT_GT(metric(metrics, "zero_epe"), 0.3);
    EXPECT_NEAR(metric(metrics, "epe"), metric(metrics, "zero_epe"), 1e-6);
  }
}

TEST_F(FlowTraining, RandomPointsStandForTheWholeField) {
  Json json = pixel_flow_recipe();
  json["points"] = 100;
  json["batch_size"] = 2;
  const Batch batch = batch_of(json, 0);
  EXPECT_EQ(batch.targets.at("flow").sizes(), at::IntArrayRef({2, 100, 2}));
  const auto& points = batch.request.points.at("flow");
  ASSERT_EQ(points.size(), 100U);
  EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
  json.erase("points");
  const Batch whole = batch_of(json, 0);
  for (const int64_t row : {0, 50, 99}) {
    EXPECT_TRUE(batch.targets.at("flow").select(1, row).equal(
        whole.targets.at("flow").select(1, points[static_cast<size_t>(row)])));
  }
  json["points"] = 100;
  json["steps"] = 2;
  EXPECT_EQ(run(json, "out").steps, 2);
  json["points"] = 24 * 32 + 1;
  losses_.clear();
  expect_refused(json, "points is 769, the model has 768 output pixels");
  json = flow_recipe();
  json["points"] = 10;
  expect_refused(json, "needs all; leave points out");
}

// Rows asked for by number are the rows of the whole answer: queries and scale are the same.
TEST_F(FlowTraining, PointsGetTheRowsOfTheWholeAnswer) {
  Json json = pixel_flow_recipe();
  json["steps"] = 3;
  run(json, "out");
  const tasks::Bundle bundle = tasks::load_bundle(folder_ / "out");
  nn::Model model(bundle.spec, bundle.weights);
  json["points"] = 5;
  json["batch_size"] = 1;
  const Batch batch = batch_of(json, 0);
  const at::Tensor some = model.forward(batch.inputs, batch.request).at("flow");
  const at::Tensor all = model.forward(batch.inputs).at("flow").reshape({1, -1, 2});
  EXPECT_GT(all.abs().sum().item<double>(), 0);
  for (int64_t i = 0; i < 5; ++i) {
    const int64_t row = batch.request.points.at("flow")[static_cast<size_t>(i)];
    EXPECT_LT((some.select(1, i) - all.select(1, row)).abs().max().item<double>(), 1e-6);
  }
}

TEST_F(FlowTraining, TheFirstPhaseShowsEveryPairForwardAndReversed) {
  Json json = flow_recipe();
  json["batch_size"] = 4;
  json["phases"] = Json::parse(R"([{"until": 2, "reversed": true}, {}])");
  const Batch early = batch_of(json, 1);
  const at::Tensor frames = early.inputs.arrays.at("frames");  // [B, 2, H, W, 27]
  for (int64_t i = 0; i < 4; i += 2) {
    EXPECT_TRUE(frames[i][0].equal(frames[i + 1][1]));
    EXPECT_TRUE(frames[i][1].equal(frames[i + 1][0]));
  }
  EXPECT_TRUE(early.mask[0].all().item<bool>());
  EXPECT_FALSE(early.mask[1].all().item<bool>());  // where nothing landed
  // the way there and the way back lead home, on the whole
  const at::Tensor there = early.targets.at("flow")[0].mean(0);
  const at::Tensor back = early.targets.at("flow")[1].mean(0);
  EXPECT_LT((there + back).abs().max().item<double>(), 0.8);
  const Batch late = batch_of(json, 2);
  EXPECT_TRUE(late.mask.all().item<bool>());
}

TEST_F(FlowTraining, PhasesCountStepsNotMicroBatches) {
  Json json = flow_recipe();
  json["accumulate"] = 2;
  json["phases"] = Json::parse(R"([{"until": 1, "reversed": true}, {}])");
  EXPECT_FALSE(batch_of(json, 1).mask.all().item<bool>());
  EXPECT_TRUE(batch_of(json, 2).mask.all().item<bool>());
}

TEST_F(FlowTraining, MicroBatchesEqualOneLargeBatch) {
  Json json = flow_recipe();
  json["data"]["train"][0]["layers"] = 3;
  json["loss"]["occluded"] = false;  // so that examples have different numbers of pixels
  run(json, "whole");
  const std::vector<double> whole = std::exchange(losses_, {});
  json["batch_size"] = 2;
  json["accumulate"] = 4;
  run(json, "parts");
  ASSERT_EQ(whole.size(), losses_.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(losses_[i], whole[i], 2e-4 * whole[i]);
  }
}

TEST_F(FlowTraining, EvaluatesFramesLargerThanTheModelAsFlowIsEstimated) {
  Json json = flow_recipe();
  json["data"]["test"][0]["height"] = 30;
  json["data"]["test"][0]["width"] = 50;
  json["data"]["test"][0]["examples"] = 2;
  const TrainResult result = run(json, "out");
  const tasks::Bundle bundle = tasks::load_bundle(folder_ / "out");
  const auto engine = tasks::make_engine(bundle);
  const Recipe recipe = read(json);
  FlowSource source;
  source.examples = 2;
  source.scene.layers = 0;
  source.scene.shift = 2;
  source.scene.rotation = source.scene.scale = source.scene.bend = 0;
  source.scene.samples = 1;
  source.scene.height = 30;
  source.scene.width = 50;
  const FlowSet set({source}, recipe.seed, kFlowTestScene, {24, 32});
  FlowErrors errors;
  for (int64_t i = 0; i < 2; ++i) {
    const FlowPair pair = set.read(i);
    errors.add(tasks::estimate_flow(bundle, *engine, io::make_image(pair.first),
                                    io::make_image(pair.second))
                   .uv,
               pair);
  }
  EXPECT_NEAR(metric(errors.metrics(), "epe"), metric(result.metrics, "epe"), 1e-4);
  EXPECT_TRUE(has(result.metrics, "epe_unoccluded"));
  EXPECT_FALSE(has(result.metrics, "epe_s40"));
}

TEST_F(FlowTraining, DamagedPairsAreLeftOutUpToALimit) {
  test::write_sintel_scene(folder_ / "sintel", "alley_1", 3);
  Json json = flow_recipe();
  json["data"]["train"] = Json::parse(R"([{"layout": "sintel", "path": "sintel"}])");
  json["data"]["test"][0]["examples"] = 1;
  EXPECT_EQ(run(json, "good").skipped, 0);
  std::ofstream(folder_ / "sintel/flow/alley_1/frame_0002.flo") << "PIEH";
  losses_.clear();
  json["skip_bad"] = 2;
  EXPECT_EQ(run(json, "skipped").skipped, 2);  // it belongs to two passes
  json["skip_bad"] = 0;
  EXPECT_THROW(run(json, "strict"), Error);
}

TEST_F(FlowTraining, ARecipeIsCheckedBeforeTheFirstStep) {
  Json json = flow_recipe();
  json["data"]["train"][0]["shft"] = 1;
  expect_refused(json, "data.train[0]: unknown key 'shft'; did you mean 'shift'?");
  json = flow_recipe();
  json["data"]["train"][0]["bend"] = 2;
  expect_refused(json, "data.train[0].bend is 2, must be between 0 and 1.2");
  json = flow_recipe();
  json["data"]["test"][0] = {{"layout", "kitti"}, {"path", "nowhere"}};
  expect_refused(json, "data.test[0].path: no folder");
  json = flow_recipe();
  json["phases"] = Json::parse(R"([{"until": 3}])");
  expect_refused(json, "the last phase goes on to the end");
  json["phases"] = Json::parse(R"([{"until": 3}, {"until": 3}, {}])");
  expect_refused(json, "phases[1].until is 3, must be between 4");
  json["phases"] = Json::parse(R"([{"augment": {"scale": [1, 0]}}])");
  expect_refused(json, "augment.scale must be [minimum, maximum]");
  json = flow_recipe();
  json["model"]["spec"]["inputs"][0]["channels"] = 3;
  expect_refused(json, "needs a model with one grid input [2, H, W] of 27 channels");
  json = flow_recipe();
  for (const char* key : {"head", "head_channels", "head_factors"}) {
    json["model"]["spec"]["outputs"][0].erase(key);
  }
  expect_refused(json, "output flow is [6, 8, 32], the flow of the frames is [24, 32, 2]");
}

TEST_F(FlowTraining, TheSintelRecipeReadsASintelFolder) {
  test::write_sintel_scene(folder_ / "MPI-Sintel/training", "alley_1", 1);
  test::write_sintel_scene(folder_ / "MPI-Sintel/training", "market_5", 1);
  const std::filesystem::path path =
      std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes/flow-sintel.json";
  RecipeOptions options;
  options.data = folder_.path();
  const Recipe recipe = read_recipe(path, options);
  EXPECT_EQ(recipe.model.encoder.num_latents, 2048);
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  EXPECT_EQ(task->test_examples(), 4);  // a pair of each scene, clean and final
}

}  // namespace
}  // namespace perceiver::train
