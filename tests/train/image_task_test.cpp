#include "train/tasks/image_task.h"

#include <algorithm>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include "perceiver/base/error.h"
#include "perceiver/io/image.h"
#include "perceiver/tokens/image_processor.h"
#include "support/shared.h"
#include "train/losses.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::image_recipe;
using test::write_bytes;

// Pictures of random sizes: those of class "left" are bright on the left, of "right" on the right.
void write_class_folders(const std::filesystem::path& folder, int count) {
  for (int i = 0; i < count; ++i) {
    const int64_t height = 8 + i % 3;
    const int64_t width = 9 + i % 4;
    const bool left = i % 2 == 0;
    Array pixels = Array::zeros(DType::kU8, {height, width, 3});
    for (int64_t k = 0; k < pixels.numel(); ++k) {
      const bool on_left = k / 3 % width < width / 2;
      pixels.mutable_data<uint8_t>()[k] =
          static_cast<uint8_t>((left == on_left ? 200 : 20) + (i * 7 + k) % 40);
    }
    const std::filesystem::path place = folder / (left ? "left" : "right");
    std::filesystem::create_directories(place);
    io::write_png(place / (std::to_string(100 + i) + ".png"), io::make_image(pixels));
  }
}

class ImageTasks : public test::Runs {
 protected:
  ImageTasks() {
    test::write_pictures(folder_, "train", 40);
    test::write_pictures(folder_, "test", 20);
    write_class_folders(folder_ / "train", 24);
    write_class_folders(folder_ / "test", 10);
  }

  // The tiny recipe on the folders' pictures.
  static Json folder_recipe() {
    Json json = image_recipe();
    json["data"] = {{"format", "folder"}, {"train_folder", "train"}, {"test_folder", "test"}};
    json["preprocessor"] = {
        {"size", 4}, {"crop_size", 4}, {"image_mean", {0.5}}, {"image_std", {0.25}}};
    return json;
  }

  // Keeps the recipe alive: the task refers to it.
  Task& make(const Json& json) {
    recipe_ = read(json);
    task_ = recipe_.task_recipe->make(recipe_, recipe_.model, TaskData::kTrainAndTest);
    return *task_;
  }

  at::Tensor pixels(const Json& json, int64_t batch = 0) {
    return make(json).training_batch(batch).inputs.arrays.at("image");
  }

  Recipe recipe_;
  std::unique_ptr<Task> task_;
};

TEST_F(ImageTasks, LearnsFromFoldersOfPicturesOfAnySize) {
  Json json = folder_recipe();
  json["steps"] = 60;
  json["data"]["augment"] = {{"random_crop", {{"min_area", 0.7}}}, {"pad_crop", 1}};
  EXPECT_EQ(run(json).metrics[0].second, 1);
}

TEST_F(ImageTasks, FoldersAreCountedInOrderOrNamedByTheModelsLabels) {
  EXPECT_EQ(make(folder_recipe()).test_examples(), 10);
  Json json = folder_recipe();
  json["batch_size"] = 24;
  const auto of_class_one = [&] {
    const Batch batch = make(json).training_batch(0);
    const at::Tensor is_one = batch.targets.at("logits").eq(1);
    return batch.inputs.arrays.at("image").slice(2, 0, 1).mean({1, 2, 3}).masked_select(is_one);
  };
  EXPECT_LT(of_class_one().max().item<float>(), 0);  // "right": dark on the left
  json["model"]["spec"]["labels"] = {"right", "left"};
  EXPECT_GT(of_class_one().min().item<float>(), 0);
  json["model"]["spec"]["labels"] = {"right", "middle"};
  expect_refused(json, "left: no class is named 'left'");
}

TEST_F(ImageTasks, ListsNamePicturesAndLabels) {
  write_bytes(folder_ / "train.tsv", "left/100.png\t1\nright/101.png\t0\n");
  write_bytes(folder_ / "test.csv", "right/101.png,1\n");
  Json json = folder_recipe();
  json["data"] = {{"format", "list"},
                  {"train_list", "train.tsv"},
                  {"test_list", "test.csv"},
                  {"root", "train"}};
  json["batch_size"] = 2;
  Task& task = make(json);
  EXPECT_EQ(task.test_examples(), 1);
  EXPECT_EQ(task.training_batch(0).targets.at("logits").sum().item<int64_t>(), 1);
  write_bytes(folder_ / "test.csv", "right/101.png,2\n");
  expect_refused(json, "101.png has label 2, the model has 2 classes");
}

TEST_F(ImageTasks, UnreadablePicturesAreLeftOutUpToTheLimitAndNamedAfterThat) {
  write_bytes(folder_ / "train" / "left" / "102.png", "no picture");
  Json json = folder_recipe();
  json["skip_bad"] = 1;
  EXPECT_EQ(run(json).skipped, 1);
  json["skip_bad"] = 0;
  try {
    run(json);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("left/102.png"), std::string::npos) << error.what();
  }
}

TEST_F(ImageTasks, TestPicturesAreThoseThatClassifySees) {
  const Json json = folder_recipe();
  // Without augmentation a training picture is prepared like a test one.
  const Batch batch = make(json).training_batch(0);
  const auto config = tokens::image_processor_config_from_json(json["preprocessor"], "test");
  std::vector<at::Tensor> wanted;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "train")) {
    if (entry.is_regular_file()) {
      const Array seen =
          tokens::process_image(io::to_grey(io::read_image(entry.path())).pixels, config);
      const float* values = seen.data<float>();
      wanted.push_back(at::tensor(std::vector<float>(values, values + 16)));
    }
  }
  const at::Tensor made = batch.inputs.arrays.at("image").flatten(1);
  for (int64_t i = 0; i < made.size(0); ++i) {
    EXPECT_TRUE(std::any_of(wanted.begin(), wanted.end(), [&](const at::Tensor& picture) {
      return at::allclose(picture, made[i], 0, 1e-5);
    })) << i;
  }
}

TEST_F(ImageTasks, BatchesAreFunctionsOfTheExamplesAlone) {
  Json json = folder_recipe();
  json["data"]["augment"] = {{"random_crop", Json::object()},
                             {"flip", true},
                             {"rand_augment", {{"layers", 2}, {"translation", 4}, {"cutout", 2}}},
                             {"mixup", 0.2},
                             {"cutmix", true}};
  json["batch_size"] = 4;
  const at::Tensor third = pixels(json, 2);
  const at::Tensor fourth = pixels(json, 3);
  json["batch_size"] = 8;
  const at::Tensor both = pixels(json, 1);
  EXPECT_TRUE(both.slice(0, 0, 4).equal(third));
  EXPECT_TRUE(both.slice(0, 4).equal(fourth));
  json["seed"] = 4;
  EXPECT_FALSE(pixels(json, 1).equal(both));
}

TEST_F(ImageTasks, MixedTargetsAreSharesOfBothLabels) {
  Json json = image_recipe();
  json["data"]["augment"] = {{"mixup", 0.5}, {"cutmix", true}};
  json["batch_size"] = 64;
  const Batch batch = make(json).training_batch(0);
  const at::Tensor target = batch.targets.at("logits");
  ASSERT_EQ(target.sizes(), at::IntArrayRef({64, 2}));
  EXPECT_TRUE(at::allclose(target.sum(1), at::ones({64})));
  const at::Tensor first = target.select(1, 0);
  EXPECT_GT(first.gt(0.1).logical_and(first.lt(0.9)).sum().item<int64_t>(), 8);
  // Hard labels are a case of soft ones.
  const at::Tensor logits = at::tensor({1.0F, 2.0F, 0.0F, -1.0F}).view({2, 2});
  const at::Tensor hard = at::tensor({0, 1}, at::kLong);
  const at::Tensor soft = at::tensor({1.0F, 0.0F, 0.0F, 1.0F}).view({2, 2});
  EXPECT_TRUE(at::allclose(softmax_cross_entropy(logits, hard, 0.1),
                           softmax_cross_entropy(logits, soft, 0.1)));
  json["steps"] = 60;
  EXPECT_EQ(run(json).metrics[0].second, 1);
}

TEST_F(ImageTasks, PermutedPixelsAreTheSameForAllPicturesAndInTests) {
  Json json = image_recipe();
  json["data"].erase("augment");
  const at::Tensor plain = pixels(json).flatten(1);
  json["data"]["permute_pixels"] = true;
  const at::Tensor permuted = pixels(json).flatten(1);
  EXPECT_FALSE(plain.equal(permuted));
  EXPECT_TRUE(std::get<0>(plain.sort(1)).equal(std::get<0>(permuted.sort(1))));
  // Each place shows one place of the original, in every picture of the batch.
  for (int64_t place = 0; place < 16; ++place) {
    bool found = false;
    for (int64_t from = 0; from < 16; ++from) {
      found = found || permuted.select(1, place).equal(plain.select(1, from));
    }
    EXPECT_TRUE(found) << place;
  }
  json["steps"] = 100;
  EXPECT_EQ(run(json).metrics[0].second, 1);  // would fail were the test pictures in order
}

TEST_F(ImageTasks, RefusesDataThatDoNotFitNamingBothSides) {
  Json json = image_recipe();
  json["model"]["spec"]["inputs"][0]["index_dims"] = {4, 5};
  expect_refused(json,
                 "test_images: picture 0 is [4, 4, 1], the model's input image needs [4, 5, 1]");
}

TEST_F(ImageTasks, RefusesKeysThatCannotBeMeant) {
  const auto refused = [&](const char* pointer, Json value, const std::string& message) {
    Json json = folder_recipe();
    json[Json::json_pointer(pointer)] = std::move(value);
    expect_refused(json, message);
  };
  refused("/data/format", "png", "data.format is 'png', must be one of: idx, cifar10");
  refused("/data/train_images", "train_images", "unknown key 'train_images'");
  refused("/data/train_folder", "absent", "data.train_folder: no folder");
  refused("/data/augment", {{"random_crop", {{"min_area", 0}}}}, "min_area is 0, must be between");
  refused("/data/augment", {{"mixup", 1e-9}}, "must be 0 (none) or at least 0.001");
  refused("/data/augment", {{"rand_augment", {{"magnitude", 11}}}}, "magnitude is 11, must be");
  refused("/preprocessor/size", 8, "pictures become 8 x 8, the model reads 4 x 4");
  refused("/preprocessor/do_resize", false, "(do_resize is false)");
  refused("/preprocessor/image_sdt", 1, "image_sdt");
  Json cifar = folder_recipe();
  cifar["data"] = {{"format", "cifar10"}, {"train_files", "a"}, {"test_files", "b"}};
  expect_refused(cifar, "data.train_files must be a list of paths");
  cifar["data"]["train_files"] = {"absent.bin"};
  expect_refused(cifar, "data.train_files: no file");
}

// The paper's recipe reads any folder of pictures; a run of it takes machines that few have.
TEST_F(ImageTasks, ThePapersImageNetRecipeIsValid) {
  RecipeOptions options;
  options.data = folder_.path();
  options.overrides = {{"data.train_folder", "train"}, {"data.test_folder", "test"}};
  const Recipe recipe = read_recipe(
      std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes/imagenet-fourier.json", options);
  EXPECT_EQ(recipe.optimiser.kind, OptimiserKind::kLamb);
  EXPECT_EQ(recipe.steps, 110 * 1281167 / 1024);
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  EXPECT_EQ(task->test_examples(), 10);
  const auto& own = dynamic_cast<const ImageRecipe&>(*recipe.task_recipe);
  EXPECT_EQ(own.data.augment.rand_augment.layers, 4);
  EXPECT_TRUE(own.data.mix.cutmix);
  EXPECT_EQ(own.label_smoothing, 0.1);
}

TEST(ImageTasksShared, ReadsCifarAndRealPhotosAsTheRecipesDo) {
  PERCEIVER_SHARED_OR_SKIP(data, "data/vision/cifar10");
  for (const char* name : {"cifar-fourier.json", "mnist-permuted.json"}) {
    RecipeOptions options;
    options.data = data.parent_path().parent_path();
    options.overrides = {{"batch_size", "4"}};
    const Recipe recipe =
        read_recipe(std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes" / name, options);
    const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
    EXPECT_GE(task->test_examples(), 600);
    const at::Tensor made = task->training_batch(3).inputs.arrays.begin()->second;
    EXPECT_LT(made.mean().abs().item<float>(), 1.5);
    EXPECT_GT(made.std().item<float>(), 0.3);
  }
}

}  // namespace
}  // namespace perceiver::train
