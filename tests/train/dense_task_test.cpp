#include "train/tasks/dense_task.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include "perceiver/base/error.h"
#include "perceiver/io/image.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

// Pictures of 8 x 8 pixels of up to 4 classes; rows are asked with the tokens themselves.
Json dense_recipe() {
  return Json::parse(R"({
    "name": "tiny-dense", "task": "dense_classification",
    "model": {"spec": {
      "name": "tiny-dense",
      "inputs": [{"name": "picture", "kind": "grid", "index_dims": [8, 8], "channels": 3,
                  "position": {"kind": "fourier", "num_bands": 2}}],
      "encoder": {"num_latents": 8, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"cross_attend": {"use_query_residual": true}, "output_channels": 4},
      "outputs": [{"name": "classes", "query": "input_tokens", "of_input": "picture",
                   "index_dims": [8, 8], "keep_grid": true}]}},
    "data": {"format": "shapes", "train_examples": 64, "test_examples": 40},
    "preprocessor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip_norm": 1},
    "points": 16, "batch_size": 8, "steps": 60, "seed": 2})");
}

Json series_recipe() {
  Json json = dense_recipe();
  json["model"]["spec"] = Json::parse(R"({
      "name": "tiny-steps",
      "inputs": [{"name": "sensors", "kind": "grid", "index_dims": [48], "channels": 2,
                  "position": {"kind": "fourier", "num_bands": 4}}],
      "encoder": {"num_latents": 8, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 3},
      "outputs": [{"name": "states", "query": "fourier", "index_dims": [48], "whole_grid": "half_open",
                   "position": {"kind": "fourier", "num_bands": 4}}]})");
  json["data"] = {{"format", "series"}, {"train_examples", 64}, {"test_examples", 8}};
  json.erase("preprocessor");
  return json;
}

class DenseTasks : public test::Runs {
 protected:
  // Class 1 is red, the rest blue; pixels of the first row have no class.
  void write_masked(const std::string& part, int count) {
    for (int i = 0; i < count; ++i) {
      const int64_t height = 9 + i % 2;
      Array pixels = Array::zeros(DType::kU8, {height, 12, 3});
      Array classes = Array::zeros(DType::kU8, {height, 12, 1});
      for (int64_t k = 0; k < classes.numel(); ++k) {
        const bool red = (k % 12 + i) % 12 < 5;
        pixels.mutable_data<uint8_t>()[3 * k + (red ? 0 : 2)] = 220;
        classes.mutable_data<uint8_t>()[k] = k < 12 ? 255 : (red ? 1 : 0);
      }
      const std::string name = std::to_string(10 + i) + ".png";
      std::filesystem::create_directories(folder_ / (part + "_pictures"));
      std::filesystem::create_directories(folder_ / (part + "_masks"));
      io::write_png(folder_ / (part + "_pictures") / name, io::make_image(pixels));
      io::write_png(folder_ / (part + "_masks") / name, io::make_image(classes));
    }
  }

  Json folder_recipe() {
    write_masked("train", 12);
    write_masked("test", 6);
    Json json = dense_recipe();
    json["data"] = {{"format", "folder"},
                    {"train_pictures", "train_pictures"},
                    {"train_masks", "train_masks"},
                    {"test_pictures", "test_pictures"},
                    {"test_masks", "test_masks"},
                    {"augment", {{"flip", true}, {"random_crop", {{"min_area", 0.5}}}}}};
    return json;
  }

  Task& make(const Json& json) {
    recipe_ = recipe_from_json(json, folder_ / "r.json", {});
    task_ = recipe_.task_recipe->make(recipe_, recipe_.model, TaskData::kTrainAndTest);
    return *task_;
  }

  void expect_refused(const Json& json, const std::string& message) {
    test::expect_error([&] { make(json).training_batch(0); }, message);
  }

  Recipe recipe_;
  std::unique_ptr<Task> task_;
};

TEST(Shapes, ScenesHaveEveryClassAndAreFunctionsOfTheirStream) {
  const PictureSize size{32, 40, 3};
  std::vector<int64_t> seen(kShapeClasses, 0);
  for (uint64_t i = 0; i < 60; ++i) {
    std::vector<float> values(32 * 40 * 3);
    std::vector<float> again(values.size());
    std::vector<int64_t> labels(32 * 40);
    Random one{i};
    Random same{i};
    draw_scene({}, size, one, values.data(), labels.data());
    draw_scene({}, size, same, again.data(), labels.data());
    ASSERT_EQ(values, again);
    for (const int64_t label : labels) {
      ++seen[static_cast<size_t>(label)];
    }
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    ASSERT_GE(*low, 0);
    ASSERT_LE(*high, 255);
  }
  const int64_t total = 60 * 32 * 40;
  EXPECT_GT(seen[0], total / 3);
  EXPECT_LT(seen[0], total * 4 / 5);
  for (const int64_t kind : {1, 2, 3}) {
    EXPECT_GT(seen[static_cast<size_t>(kind)], total / 25) << kind;
  }
}

TEST(Segments, EveryStepHasTheClassOfItsStretch) {
  std::vector<float> values(96 * 2);
  std::vector<int64_t> labels(96, -1);
  Random random{5};
  draw_segments({.noise = 0}, 96, 2, 4, random, values.data(), labels.data());
  EXPECT_GE(*std::min_element(labels.begin(), labels.end()), 0);
  EXPECT_LE(*std::max_element(labels.begin(), labels.end()), 3);
  EXPECT_LE(std::fabs(*std::max_element(values.begin(), values.end())), 1.3F);
  int changes = 0;
  for (size_t i = 1; i < labels.size(); ++i) {
    changes += labels[i] != labels[i - 1];
  }
  EXPECT_GE(changes, 1);
  EXPECT_LE(changes, 8);
}

TEST_F(DenseTasks, LearnsFromPicturesAndMasks) {
  const TrainResult result = run(folder_recipe());
  ASSERT_EQ(result.metrics.size(), 4U);
  EXPECT_EQ(result.metrics[0].first, "accuracy");
  EXPECT_GT(result.metrics[0].second, 0.95);
  EXPECT_EQ(result.metrics[1].first, "mean_iou");
  EXPECT_GT(result.metrics[1].second, 0.9);
  EXPECT_EQ(result.metrics[2].first, "majority_accuracy");
  EXPECT_NEAR(result.metrics[2].second, 7.0 / 12, 0.08);
}

TEST_F(DenseTasks, LearnsShapesAndStepsOfSeries) {
  run(dense_recipe());
  EXPECT_LT(losses_.back(), 0.95 * losses_.front());
  const TrainResult result = run(series_recipe());
  EXPECT_LT(losses_.back(), 0.95 * losses_.front());
  EXPECT_EQ(result.metrics[0].first, "accuracy");
}

TEST_F(DenseTasks, AsksForOtherPointsInEveryBatch) {
  Task& task = make(dense_recipe());
  const Batch batch = task.training_batch(0);
  const std::vector<int64_t>& points = batch.request.points.at("classes");
  ASSERT_EQ(points.size(), 16U);
  EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
  EXPECT_EQ(std::adjacent_find(points.begin(), points.end()), points.end());
  EXPECT_EQ(batch.targets.at("classes").sizes(), at::IntArrayRef({8, 16}));
  EXPECT_EQ(points, task.training_batch(0).request.points.at("classes"));
  EXPECT_NE(points, task.training_batch(1).request.points.at("classes"));
  Json json = dense_recipe();
  json["points"] = 0;
  const Batch whole = make(json).training_batch(0);
  EXPECT_TRUE(whole.request.points.empty());
  const at::Tensor labels = whole.targets.at("classes");
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_TRUE(batch.targets.at("classes")
                    .select(1, static_cast<int64_t>(i))
                    .equal(labels.select(1, points[i])));
  }
}

// All points asked for one by one give the loss of the whole grid: the positions are the same.
TEST_F(DenseTasks, PointsAndTheWholeGridAgree) {
  for (Json json : {dense_recipe(), series_recipe()}) {
    json["steps"] = 3;
    json["points"] = 0;
    run(json);
    const std::vector<double> whole = losses_;
    json["points"] = json["data"]["format"] == "series" ? 48 : 64;
    run(json);
    ASSERT_EQ(whole.size(), losses_.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      EXPECT_NEAR(losses_[i], whole[i], 1e-4) << i;
    }
  }
}

TEST_F(DenseTasks, PixelsWithoutAClassCountNowhere) {
  Json json = folder_recipe();
  json["data"].erase("augment");
  json["points"] = 0;
  Task& task = make(json);
  const Batch batch = task.training_batch(0);
  ASSERT_TRUE(batch.mask.defined());
  EXPECT_EQ(task.counts(batch)[0], 8 * 56);  // the first of 8 rows is hidden
  nn::TensorMap outputs;
  outputs["classes"] = at::zeros({8, 8, 8, 4});
  const double before = task.loss(outputs, batch, {1}).item<double>();
  outputs["classes"].slice(1, 0, 1).fill_(100).select(3, 2).fill_(-100);
  EXPECT_NEAR(task.loss(outputs, batch, {1}).item<double>(), before, 1e-6);
  EXPECT_NEAR(before, std::log(4.0), 1e-5);
  json["data"]["ignore_label"] = -1;
  expect_refused(json, "holds class 255, the model has 4 and ignore_label is -1");
}

TEST_F(DenseTasks, NamesMasksThatAreMissingOrDoNotFit) {
  const Json json = folder_recipe();
  const auto mask = folder_ / "test_masks/12.png";
  const auto train_mask = folder_ / "train_masks/12.png";
  std::filesystem::rename(mask, folder_ / "test_masks/away.png");
  expect_refused(json, "12.png has no mask");
  std::filesystem::rename(folder_ / "test_masks/away.png", mask);
  Json one = json;
  one["batch_size"] = 12;  // every picture
  io::write_png(train_mask, io::make_image(Array::zeros(DType::kU8, {3, 4, 1})));
  expect_refused(one, "12.png is 4x3, its picture");
  io::write_png(train_mask, io::make_image(Array::zeros(DType::kU8, {9, 12, 3})));
  expect_refused(one, "a mask is a grey 8-bit picture, this one has 3 channel(s)");
  one["skip_bad"] = 1;
  Task& task = make(one);
  task.training_batch(0);
  EXPECT_EQ(task.skipped(), 1);
}

TEST_F(DenseTasks, RefusesModelsThatDoNotTellEveryPlace) {
  const auto refused = [&](const Json& original, const char* pointer, Json value,
                           const std::string& message) {
    Json json = original;
    json[Json::json_pointer(pointer)] = std::move(value);
    expect_refused(json, message);
  };
  refused(dense_recipe(), "/points", 65, "points is 65, output classes has 64 places");
  refused(dense_recipe(), "/model/spec/decoder/output_channels", 5,
          "shapes have 4 classes, the model tells 5");
  refused(dense_recipe(), "/data/format", "series", "needs a model that reads 1 axis");
  refused(series_recipe(), "/data/format", "shapes", "preprocessor is missing");
  refused(series_recipe(), "/model/spec/outputs/0/whole_grid", "inclusive",
          "give it \"whole_grid\": \"half_open\"");
  refused(series_recipe(), "/model/spec/outputs/0/index_dims", {24},
          "output states has the grid [24], the input sensors has [48]");
  refused(series_recipe(), "/model/spec/decoder/output_channels", 9, "need 112 steps");
  Json single = series_recipe();
  single["model"]["spec"]["outputs"][0] = {{"name", "states"},
                                           {"query", "learned"},
                                           {"index_dims", {1}},
                                           {"channels", 8},
                                           {"single_row", true}};
  expect_refused(single, "decodes a row for every place");
}

}  // namespace
}  // namespace perceiver::train
