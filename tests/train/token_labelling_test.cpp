#include <cmath>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

// A word is a NAME when "mr" stands before it: not to be told from its own bytes.
Json recipe_json() {
  return Json::parse(R"({
    "name": "tiny-labels", "task": "token_labelling",
    "model": {"spec": {
      "name": "tiny-labels",
      "inputs": [{"name": "inputs", "kind": "text", "index_dims": [24], "vocab_size": 262,
                  "embedding_channels": 16, "position": {"kind": "trainable", "num_channels": 16, "use": "add"}}],
      "encoder": {"num_latents": 24, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"final_project": false},
      "outputs": [{"name": "labels", "query": "input_tokens", "of_input": "inputs", "index_dims": [24],
                   "head": "linear", "head_channels": 2}]}},
    "init": {"embedding_scale": 0.3, "sinusoidal_positions": true, "position_scale": 0.3,
             "local_attention": 1},
    "data": {"train": "train", "test": "test", "labels": ["O", "NAME"]},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 16, "steps": 150, "seed": 5})");
}

class TokenLabelling : public test::Runs {
 protected:
  TokenLabelling() {
    for (const char* part : {"train", "test"}) {
      std::string lines;
      for (int i = 0; i < 60; ++i) {
        const bool named = (i * 7 + i / 3) % 2 == 0;
        lines += cat("a", i % 10, "\tO\n", named ? "mr" : "ms", "\tO\n", "bo", i % 9, "\t",
                     named ? "NAME" : "O", "\n", i % 4 == 0 ? "went\tO\n" : "", "\n");
      }
      test::write_bytes(folder_ / part, lines);
    }
    std::string text;
    for (int i = 0; i < 300; ++i) {
      text += "the cat sat on mat " + std::to_string(i) + ".\n";
    }
    test::write_bytes(folder_ / "text", text);
  }

  static Json json() { return recipe_json(); }
};

TEST_F(TokenLabelling, LearnsWhatOnlyTheContextTells) {
  const TrainResult result = run(json(), "out");
  ASSERT_EQ(result.metrics.size(), 4U);
  EXPECT_EQ(result.metrics[0].first, "accuracy");
  EXPECT_EQ(result.metrics[1].first, "macro_f1");
  EXPECT_EQ(result.metrics[3].first, "majority_of_byte");
  EXPECT_GT(result.metrics[0].second, 0.97);
  EXPECT_GT(result.metrics[1].second, 0.95);
  EXPECT_LT(result.metrics[2].second, 0.9);
  EXPECT_LT(result.metrics[3].second, 0.9);
  EXPECT_EQ(evaluate(read(json()), folder_ / "out").metrics, result.metrics);
}

TEST_F(TokenLabelling, MicroBatchesOfAnyLengthEqualOneLargeBatch) {
  Json recipe = json();
  recipe["steps"] = 6;
  run(recipe, "whole");
  const std::vector<double> whole = std::exchange(losses_, {});
  recipe["batch_size"] = 2;
  recipe["accumulate"] = 8;
  run(recipe, "parts");
  ASSERT_EQ(whole.size(), losses_.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(losses_[i], whole[i], 2e-4 * std::abs(whole[i])) << "step " << i + 1;
  }
}

TEST_F(TokenLabelling, OneRowPerPlaceServesToo) {
  Json recipe = json();
  recipe["model"]["spec"]["outputs"][0] = Json::parse(
      R"({"name": "labels", "query": "learned", "index_dims": [24], "channels": 16,
          "head": "linear", "head_channels": 2})");
  recipe["preprocessor"] = {{"add_special_tokens", true}};
  const TrainResult result = run(recipe, "out");
  EXPECT_GT(result.metrics[0].second, result.metrics[2].second);
}

TEST_F(TokenLabelling, OnlyLabelledBytesAreAsked) {
  Json recipe = json();
  recipe["data"]["label_bytes"] = "first";
  recipe["preprocessor"] = {{"add_special_tokens", true}};
  const Recipe made = read(recipe);
  const auto task = made.task_recipe->make(made, made.model, TaskData::kTrainAndTest);
  const Batch batch = task->training_batch(0);
  const at::Tensor& mask = batch.mask;
  EXPECT_EQ(mask.sizes(), batch.inputs.arrays.at("inputs").sizes());
  EXPECT_FALSE(mask.select(1, 0).any().item<bool>());  // [CLS]
  const auto per_text = mask.sum(1);
  EXPECT_GE(per_text.min().item<int64_t>(), 3);
  EXPECT_LE(per_text.max().item<int64_t>(), 4);
}

TEST_F(TokenLabelling, LabelsAreMadeOfPlainText) {
  for (const char* question : {"quoted", "repeated"}) {
    Json recipe = json();
    recipe["model"]["spec"]["inputs"][0]["index_dims"] = {64};
    recipe["model"]["spec"]["outputs"][0]["index_dims"] = {64};
    recipe["data"] = Json::parse(R"({
      "files": [{"path": "text"}], "train_examples": 40, "test_examples": 30, "held_out": 0.2})");
    recipe["data"]["generate"] = question;
    recipe["steps"] = 2;
    EXPECT_EQ(evaluate(read(recipe), (run(recipe, question), folder_ / question)).examples, 30);
  }
}

TEST_F(TokenLabelling, RefusesWhatDoesNotFitTheModel) {
  Json recipe = json();
  recipe["data"]["labels"] = {"O", "NAME", "PLACE"};
  expect_refused(recipe, "output labels has 2 channels, data.labels has 3 classes");
  recipe = json();
  recipe["data"]["labels"] = {"O", "O"};
  expect_refused(recipe, "must be a list of at least two different texts");
  recipe = json();
  recipe["data"]["labels"] = {"O", "PERSON"};
  expect_refused(recipe, "the label 'NAME' is none of the 2");
  recipe = json();
  recipe["model"]["spec"]["inputs"][0]["vocab_size"] = 300;
  expect_refused(recipe, "the model's vocabulary must be 262, is 300");
  recipe = json();
  recipe["model"]["spec"]["outputs"][0] = Json::parse(
      R"({"name": "labels", "query": "learned", "index_dims": [8], "channels": 16,
          "head": "linear", "head_channels": 2})");
  expect_refused(recipe, "needs a row for each token");
  recipe = json();
  recipe["data"] = Json::parse(R"({"generate": "quoted", "files": [{"path": "text"}]})");
  expect_refused(recipe, "generated texts need a model of 32 bytes, it reads 24");
}

}  // namespace
}  // namespace perceiver::train
