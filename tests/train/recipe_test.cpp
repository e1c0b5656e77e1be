#include "perceiver/train/recipe.h"

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/tasks/image_task.h"
#include "train/tasks/language_task.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

using test::image_recipe;
using test::language_recipe;
using test::TemporaryFolder;

template <typename T>
const T& own(const Recipe& recipe) {
  return dynamic_cast<const T&>(*recipe.task_recipe);
}

class Recipes : public ::testing::Test {
 protected:
  Recipes() {
    test::write_pictures(folder_, "train", 8);
    test::write_pictures(folder_, "test", 4);
    test::write_bytes(folder_ / "text", std::string(400, 'a'));
  }

  Recipe read(Json json, RecipeOptions options = {}) {
    return recipe_from_json(std::move(json), folder_ / "r.json", options);
  }

  void expect_refused(Json json, const std::string& message) {
    try {
      read(std::move(json));
      FAIL() << "accepted; wanted: " << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }

  TemporaryFolder folder_;
};

TEST_F(Recipes, ReadsEveryPart) {
  const Recipe recipe = read(image_recipe());
  EXPECT_EQ(recipe.name, "tiny");
  EXPECT_EQ(recipe.model.encoder.latent_channels, 8);
  EXPECT_EQ(recipe.optimiser.kind, OptimiserKind::kLamb);
  EXPECT_EQ(recipe.schedule.kind, ScheduleKind::kConstantCosine);
  const auto& pictures = own<ImageRecipe>(recipe);
  EXPECT_EQ(pictures.data.augment.affine.rotation, 5);
  EXPECT_EQ(pictures.data.train_images, folder_ / "train_images");
  EXPECT_EQ(recipe.steps, 12);
  EXPECT_EQ(recipe.seed, 3U);
  EXPECT_TRUE(recipe.preprocessor.has_value());
  const Recipe text = read(language_recipe());
  EXPECT_EQ(text.model.architecture, "PerceiverForMaskedLM");
  EXPECT_EQ(own<LanguageRecipe>(text).masking.rate, 0.3);
  EXPECT_EQ(text.init.local_attention, 1);
}

TEST_F(Recipes, NamesTheNearestKeyForAnUnknownOne) {
  Json json = image_recipe();
  json["optimiser"]["learning_rat"] = 0.1;
  expect_refused(json, "optimiser: unknown key 'learning_rat'; did you mean 'learning_rate'?");
  json = image_recipe();
  json["batchsize"] = 3;
  expect_refused(json, "unknown key 'batchsize'; did you mean 'batch_size'?");
  json = language_recipe();
  json["label_smoothing"] = 0.1;  // means nothing to this task
  expect_refused(json, "unknown key 'label_smoothing'");
}

TEST_F(Recipes, RefusesWrongTypesWordsAndRanges) {
  const auto changed = [](const char* pointer, Json value) {
    Json json = image_recipe();
    json[Json::json_pointer(pointer)] = std::move(value);
    return json;
  };
  expect_refused(changed("/steps", "many"), "r.json.steps must be a whole number, is \"many\"");
  expect_refused(changed("/steps", 1.5), "steps must be a whole number, is 1.5");
  expect_refused(changed("/steps", 0), "steps is 0, must be between 1 and");
  expect_refused(changed("/steps", uint64_t{1} << 63),
                 "steps is 9223372036854775808, must be between");
  expect_refused(changed("/optimiser/kind", "adam"), "is 'adam', must be one of: adamw, lamb, sgd");
  expect_refused(changed("/optimiser/beta1", 1.0), "beta1 is 1, must be between 0 and");
  expect_refused(changed("/optimiser", 3), "optimiser: needs an object {...}, is number");
  expect_refused(changed("/schedule/warmup_steps", 13),
                 "warmup_steps is 13, must be between 0 and 12");
  expect_refused(changed("/task", "translation"), "must be one of: ");
  expect_refused(changed("/model/preset", "language-perceiver"), "give exactly one of");
  expect_refused(changed("/data/train_images", "absent"), "data.train_images: no file");
  expect_refused(Json::array(), "a recipe is an object {...}, this is array");
  Json none = image_recipe();
  none.erase("steps");
  expect_refused(none, "steps is missing");
  Json masking = language_recipe();
  masking["masking"] = {{"word_weight", 0}};
  expect_refused(masking, "nothing would be masked");
}

TEST_F(Recipes, OverridesReplaceAndAddKeys) {
  RecipeOptions options;
  options.overrides = {{"optimiser.learning_rate", "1e-3"}, {"steps", "50"}, {"save_dtype", "F16"}};
  const Recipe recipe = read(image_recipe(), options);
  EXPECT_EQ(recipe.optimiser.learning_rate, 1e-3);
  EXPECT_EQ(recipe.steps, 50);
  EXPECT_EQ(recipe.save_dtype, DType::kF16);
  EXPECT_EQ(recipe.source["steps"], 50);
  options.overrides = {{"optimizer.learning_rate", "1"}};
  EXPECT_THROW(read(image_recipe(), options), Error);
  options.overrides = {{"steps.more", "1"}};
  EXPECT_THROW(read(image_recipe(), options), Error);
}

TEST_F(Recipes, RelativeDataStartsAtTheGivenFolder) {
  const TemporaryFolder elsewhere;
  RecipeOptions options;
  options.data = folder_.path();
  const Recipe recipe = recipe_from_json(language_recipe(), elsewhere / "r.json", options);
  EXPECT_EQ(own<LanguageRecipe>(recipe).text.files.at(0).path, folder_ / "text");
  EXPECT_THROW(recipe_from_json(language_recipe(), elsewhere / "r.json", {}), Error);
}

}  // namespace
}  // namespace perceiver::train
