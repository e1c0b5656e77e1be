#include <array>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>

#include "perceiver/base/str.h"
#include "perceiver/spec/presets.h"
#include "support/shared.h"
#include "train/data/class_files.h"
#include "train/data/point_sets.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::expect_refused;
using test::metric;
using test::recipe_in;
using test::run_in;
using test::task_of;
using test::TemporaryFolder;
using test::write_bytes;

Json point_recipe() {
  return Json::parse(R"({
    "name": "tiny-points", "task": "point_cloud_classification",
    "model": {"spec": {
      "name": "tiny-points",
      "inputs": [{"name": "points", "kind": "set", "index_dims": [64], "coordinates": 3,
                  "position": {"kind": "fourier", "num_bands": 4, "max_resolution": [8, 8, 8]}}],
      "encoder": {"num_latents": 8, "latent_channels": 32, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 2},
      "decoder": {"cross_attend": {"use_query_residual": true}, "output_channels": 4},
      "outputs": [{"name": "logits", "query": "learned", "index_dims": [1], "channels": 32,
                   "single_row": true}]}},
    "data": {"generated": {"train_examples": 1000, "test_examples": 100}},
    "optimiser": {"learning_rate": 0.005, "clip_norm": 1},
    "batch_size": 16, "steps": 80, "seed": 3})");
}

// A unit square and a triangle of a hundredth of its area, apart.
io::Mesh two_faces() {
  return {Array::of<double>({6, 3}, {0, 0, 0, 1, 0, 0, 0, 1, 0, 5, 5, 5, 5.1, 5, 5, 5, 5.1, 5}),
          Array::of<int32_t>({2, 3}, {0, 1, 2, 3, 4, 5})};
}

TEST(PointSets, SamplesASurfaceByItsArea) {
  Random random{1};
  const PointSet points = sample_surface(two_faces(), 5000, /*normals=*/true, random, "m");
  ASSERT_EQ(points.count(), 5000);
  int small = 0;
  for (int64_t i = 0; i < points.count(); ++i) {
    const double* at = points.values.data() + 6 * i;
    small += at[2] > 1;
    EXPECT_EQ(std::fabs(at[5]), 1) << "the normal of a face in the plane z = const";
    if (at[2] < 1) {
      EXPECT_LE(at[0] + at[1], 1 + 1e-12);
      EXPECT_GE(std::min(at[0], at[1]), 0);
    }
  }
  EXPECT_NEAR(small, 50, 25);
}

TEST(PointSets, PointsDependOnTheSeedAlone) {
  const auto draw = [](uint64_t seed) {
    Random random{seed};
    return sample_surface(two_faces(), 10, false, random, "m").values;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(PointSets, ASurfaceWithoutAreaIsRefused) {
  const io::Mesh line{Array::of<double>({2, 3}, {0, 0, 0, 1, 0, 0}),
                      Array::of<int32_t>({1, 3}, {0, 1, 1})};
  Random random{1};
  EXPECT_THROW(sample_surface(line, 10, false, random, "m"), Error);
}

TEST(PointSets, ChoosesEachPointOnceWhileThereAreEnough) {
  const Array cloud = Array::of<double>({4, 3}, {0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0});
  const auto chosen = [&](int64_t count) {
    Random random{2};
    const PointSet points = choose_points(cloud, count, false, random, "p");
    std::array<int, 4> times{};
    for (int64_t i = 0; i < points.count(); ++i) {
      ++times[static_cast<size_t>(points.values[static_cast<size_t>(3 * i)])];
    }
    return times;
  };
  EXPECT_THAT(chosen(4), ::testing::Each(1));
  EXPECT_THAT(chosen(3), ::testing::Each(::testing::Le(1)));
  EXPECT_THAT(chosen(8), ::testing::Each(2));
  Random random{2};
  EXPECT_THROW(choose_points(cloud, 1, /*normals=*/true, random, "p"), Error);
}

TEST(PointSets, NormalisedPointsFillTheCube) {
  PointSet points{6, {10, 0, 0, 0, 0, 1, 14, 8, 0, 0, 0, 1}};
  normalise_points(points);
  EXPECT_EQ(points.values, (std::vector<double>{-0.5, -1, 0, 0, 0, 1, 0.5, 1, 0, 0, 0, 1}));
  PointSet equal{3, {2, 2, 2, 2, 2, 2}};
  normalise_points(equal);
  EXPECT_THAT(equal.values, ::testing::Each(0));
}

TEST(PointSets, ScalesEachCoordinateOfEachPointByItself) {
  PointSet points{6, {1, 1, 1, 9, 9, 9, 1, 1, 1, 9, 9, 9}};
  Random random{4};
  scale_points(points, 0.01, random);
  for (size_t i = 0; i < 12; ++i) {
    const bool coordinate = i % 6 < 3;
    EXPECT_NEAR(points.values[i], coordinate ? 1 : 9, coordinate ? 0.01 : 0);
  }
  EXPECT_NE(points.values[0], points.values[1]);
  EXPECT_NE(points.values[0], points.values[6]);
}

// What tells solids apart: distances from the centre, which no rotation changes.
TEST(PointSets, SolidsHaveTheirShapes) {
  for (int64_t kind = 0; kind < 8; ++kind) {
    Random random{5, static_cast<uint64_t>(kind)};
    const PointSet points = draw_solid(kind, 500, /*normals=*/true, 0, random);
    double nearest = 1e9;
    for (int64_t i = 0; i < 500; ++i) {
      const double* at = points.values.data() + 6 * i;
      nearest = std::min(nearest, std::hypot(at[0], at[1], at[2]));
      EXPECT_NEAR(std::hypot(at[3], at[4], at[5]), 1, 1e-9);
    }
    const std::string& name = solid_names().at(static_cast<size_t>(kind));
    EXPECT_GT(nearest, name == "sphere" ? 0.68 : name == "torus" ? 0.25 : 0.1) << name;
  }
}

TEST(PointTask, LearnsSolids) {
  TemporaryFolder folder;
  const TrainResult result = run_in(folder, point_recipe());
  EXPECT_EQ(metric(result.metrics, "majority_accuracy"), 0.25);
  EXPECT_GT(metric(result.metrics, "accuracy"), 0.45);
}

TEST(PointTask, BatchesAreFunctionsOfTheirIndex) {
  TemporaryFolder folder;
  const Recipe recipe = recipe_in(folder, point_recipe());
  const auto first = task_of(recipe)->training_batch(3);
  const auto again = task_of(recipe);
  again->training_batch(0);
  const Batch batch = again->training_batch(3);
  EXPECT_TRUE(batch.inputs.arrays.at("points").equal(first.inputs.arrays.at("points")));
  EXPECT_EQ(batch.inputs.arrays.at("points").abs().max().item<float>(), 1);
}

class PointFolders : public ::testing::Test {
 protected:
  PointFolders() {
    add("box/train/a.off");
    add("box/train/b.off");
    add("box/test/c.off");
    add("wedge/train/d.off");
    add("wedge/test/e.off");
    json_ = point_recipe();
    json_["data"] = {{"folder", "models"}, {"points", 16}};
    json_["batch_size"] = 3;
    json_["steps"] = 1;
  }

  void add(const std::string& name,
           const std::string& text = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n") {
    const auto path = folder_ / ("models/" + name);
    std::filesystem::create_directories(path.parent_path());
    write_bytes(path, text);
  }

  TemporaryFolder folder_;
  Json json_;
};

TEST_F(PointFolders, ModelNetsLayoutGivesTheClasses) {
  const Recipe recipe = recipe_in(folder_, json_);
  const auto task = task_of(recipe);
  EXPECT_EQ(task->test_examples(), 2);
  const Batch batch = task->training_batch(0);
  EXPECT_EQ(batch.inputs.arrays.at("points").sizes(), (at::IntArrayRef{3, 16, 3}));
  EXPECT_EQ(batch.targets.at("logits").sum().item<int64_t>(), 1) << "one wedge, class 1, per epoch";
  EXPECT_EQ(metric(run_in(folder_, json_).metrics, "majority_accuracy"), 0.5);
}

TEST_F(PointFolders, ListsAndFoldersOfClassesAreTheSame) {
  write_bytes(folder_ / "train.csv",
              "path,class\r\nmodels/box/train/a.off,box\r\n"
              "models/wedge/train/d.off,wedge\r\n");
  write_bytes(folder_ / "cloud.xyz", "0 0 0\n1 0 0\n0 1 1\n");
  write_bytes(folder_ / "test.csv", "cloud.xyz,wedge\n");
  json_["data"] = {{"train", "train.csv"}, {"test", "test.csv"}, {"points", 16}};
  const Recipe recipe = recipe_in(folder_, json_);
  EXPECT_EQ(task_of(recipe)->test_examples(), 1);
  EXPECT_EQ(metric(run_in(folder_, json_).metrics, "majority_accuracy"), 1);
}

TEST_F(PointFolders, UnreadableMeshesAreLeftOutUpToTheLimit) {
  add("wedge/train/x.off", "OFF\n3 1 0\n0 0 0\n");
  json_["steps"] = 4;
  try {
    run_in(folder_, json_);
    FAIL() << "trained on a cut mesh";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("x.off, line 3"), std::string::npos) << error.what();
  }
  json_["skip_bad"] = 1;
  EXPECT_EQ(run_in(folder_, json_).skipped, 1);
}

TEST_F(PointFolders, RefusesWhatDoesNotFitBeforeTheFirstStep) {
  Json json = json_;
  json["data"]["points"] = 65;
  expect_refused(folder_, json, "data.points is 65, the model reads 64");
  json = json_;
  json["model"]["spec"]["decoder"]["output_channels"] = 1;
  expect_refused(folder_, json, "there are 2 classes, the model tells 1 apart");
  json = json_;
  json["model"]["spec"]["labels"] = {"box", "ball", "cone", "torus"};
  expect_refused(folder_, json, "class 'wedge' is none of the model's 4 labels");
  json = json_;
  json["model"]["spec"]["inputs"][0]["channels"] = 1;
  expect_refused(folder_, json, "points have 3 coordinates and 0 channels, or 3 of a normal");
  json = json_;
  json["data"]["generated"] = Json::object();
  expect_refused(folder_, json, "exactly one of folder");
  json = json_;
  json["data"] = {{"folder", "nowhere"}};
  expect_refused(folder_, json, "no folder");
  std::filesystem::create_directories(folder_ / "empty/box/train");
  json["data"] = {{"folder", "empty"}};
  expect_refused(folder_, json, "no file <class>/test/*.off");
  write_bytes(folder_ / "list.csv", "path,class\nwhat\n");
  json["data"] = {{"train", "list.csv"}, {"test", "list.csv"}};
  expect_refused(folder_, json, "list.csv, line 2: expected path,class, found 'what'");
}

// The recipe of the paper fits its data: here forty folders of one triangle each.
TEST_F(PointFolders, TheModelNet40RecipeIsValid) {
  for (int i = 0; i < 40; ++i) {
    add(cat("../ModelNet40/class", i, "/train/a.off"));
    add(cat("../ModelNet40/class", i, "/test/b.off"));
  }
  const Recipe recipe =
      read_recipe(std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes/modelnet40.json",
                  {.data = folder_.path(), .overrides = {{"batch_size", "2"}}});
  EXPECT_EQ(recipe.optimiser.kind, OptimiserKind::kLamb);
  EXPECT_EQ(recipe.optimiser.learning_rate, 1e-3);
  EXPECT_EQ(recipe.schedule.kind, ScheduleKind::kConstant);
  EXPECT_EQ(recipe.model.encoder.num_cross_attends, 2);
  EXPECT_EQ(recipe.model.encoder.num_self_attends_per_block, 6);
  EXPECT_EQ(recipe.model.inputs[0].position.num_bands, 64);
  EXPECT_EQ(recipe.model.inputs[0].position.max_resolution,
            (std::vector<int64_t>{1120, 1120, 1120}));
  const auto task = task_of(recipe);
  EXPECT_EQ(task->test_examples(), 40);
  EXPECT_EQ(task->training_batch(0).inputs.arrays.at("points").sizes(),
            (at::IntArrayRef{2, 2048, 3}));
}

TEST(PointTaskShared, ReadsModelNetMeshesAndCloudsWithNormals) {
  PERCEIVER_SHARED_OR_SKIP(models, "data/pointcloud/modelnet");
  TemporaryFolder folder;
  std::string list = "path,class\n";
  for (const char* name : {"airplane_0006.off", "bathtub_0001.off", "chair_0002.off",
                           "toilet_0001.off", "airplane_0001_2048.txt", "chair_0059_2048.txt"}) {
    const std::string file = name;
    list += cat((models / file).string(), ",", file.substr(0, file.find('_')), "\n");
  }
  write_bytes(folder / "list.csv", list);
  Json json = point_recipe();
  json["data"] = {{"train", "list.csv"}, {"test", "list.csv"}};
  json["model"]["spec"]["inputs"][0]["channels"] = 3;
  json["batch_size"] = 6;
  json["steps"] = 40;
  const TrainResult result = run_in(folder, json);
  EXPECT_NEAR(metric(result.metrics, "majority_accuracy"), 2.0 / 6, 1e-12);
  EXPECT_GE(metric(result.metrics, "accuracy"), 5.0 / 6) << "six objects can be learned by heart";
}

}  // namespace
}  // namespace perceiver::train
