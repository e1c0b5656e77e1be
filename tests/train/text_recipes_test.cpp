#include <map>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "perceiver/train/recipe.h"
#include "support/shared.h"
#include "train/task.h"
#include "train/tiny.h"

// The recipes of docs/text.md, as they are shipped.

namespace perceiver::train {
namespace {

std::filesystem::path recipe_path(const std::string& name) {
  return std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes" / name;
}

// Too large to run here: what it says is checked against the paper (2107.14795, table 12), and that
// its data are accepted. The model itself is never made.
TEST(TextRecipes, PretrainingIsThePapers) {
  const test::TemporaryFolder folder;
  std::string text;
  while (text.size() < 3000000) {
    text += "it is a truth universally acknowledged\n";
  }
  test::write_bytes(folder / "c4.txt", text);
  test::write_bytes(folder / "wikipedia.txt", text);
  const Recipe recipe = read_recipe(recipe_path("mlm-bytes-paper.json"), {folder.path(), {}});
  EXPECT_EQ(recipe.optimiser.kind, OptimiserKind::kLamb);
  EXPECT_EQ(recipe.optimiser.learning_rate, 1.25e-3);
  EXPECT_EQ(recipe.optimiser.weight_decay, 0.01);
  EXPECT_EQ(recipe.schedule.kind, ScheduleKind::kCosine);
  EXPECT_EQ(recipe.schedule.warmup_steps, 1000);
  EXPECT_EQ(recipe.schedule.steps, 500000);
  EXPECT_EQ(recipe.batch_size * recipe.accumulate, 2048);
  EXPECT_NEAR(static_cast<double>(parameter_count(recipe.model)), 201e6, 1e6);
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  const Batch batch = task->training_batch(0);
  EXPECT_EQ(batch.inputs.arrays.at("inputs").size(1), 2048);
  const double hidden = batch.mask.sum().item<double>() / static_cast<double>(batch.mask.numel());
  EXPECT_NEAR(hidden, 0.13, 0.03);  // 15 % of the words; spaces are never hidden
}

// start_from takes the released language model for the paper's multi-task model: they differ in
// heads alone.
TEST(TextRecipes, TheMultitaskPresetFitsTheLanguageModel) {
  const auto body = [](const std::string& name) {
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const ParameterInfo& tensor : parameter_table(preset(name))) {
      if (!tensor.name.starts_with("outputs.")) {
        shapes[tensor.name] = tensor.shape;
      }
    }
    return shapes;
  };
  EXPECT_EQ(body("glue-multitask"), body("language-perceiver"));
  const ModelSpec tasks = preset("glue-multitask");
  const ModelSpec language = preset("language-perceiver");
  EXPECT_EQ(tasks.encoder.self_attend.num_heads, language.encoder.self_attend.num_heads);
  EXPECT_EQ(tasks.decoder.cross_attend.num_heads, language.decoder.cross_attend.num_heads);
}

TEST(TextRecipes, FilesAreWeightedAllOrNone) {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "c4.txt", "a");
  test::write_bytes(folder / "wikipedia.txt", "b");
  Json json = read_json(recipe_path("mlm-bytes-paper.json"));
  json["data"]["files"][1].erase("weight");
  EXPECT_THROW(recipe_from_json(json, folder / "r.json", {}), Error);
}

TEST(TextRecipesShared, TheirDataFitTheirModels) {
  PERCEIVER_SHARED_OR_SKIP(data, "data");
  for (const char* name : {"glue-sst2", "glue-mrpc", "glue-multitask", "token-labels"}) {
    const Recipe recipe = read_recipe(recipe_path(cat(name, ".json")), {data, {}});
    const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
    const Batch batch = task->training_batch(0);
    EXPECT_EQ(batch.inputs.arrays.at("inputs").size(0), recipe.batch_size) << name;
    EXPECT_GT(task->test_examples(), 0) << name;
    EXPECT_TRUE(std::filesystem::exists(recipe.start_from.model / "model.safetensors")) << name;
  }
}

}  // namespace
}  // namespace perceiver::train
