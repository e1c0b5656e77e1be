#include "train/start_from.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/tasks/bundle.h"
#include "train/initial.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

// Fine-tunes a tiny masked language model, saved without training, on a table of one text.
class StartFromTest : public ::testing::Test {
 protected:
  StartFromTest() {
    test::write_bytes(folder_ / "text", std::string(4000, 'x'));
    tasks::Bundle bundle;
    const Recipe pretraining = read(test::language_recipe());
    bundle.spec = pretraining.model;
    bundle.weights = initial_weights(pretraining);
    given_ = bundle.weights;
    tasks::save_bundle(bundle, folder_ / "pretrained");
    std::string table = "text\tlabel\n";
    for (int i = 0; i < 30; ++i) {
      table += cat("row ", i, "\t", i % 2, "\n");
    }
    test::write_bytes(folder_ / "table", table);
  }

  // The language model's body, with an output of two classes in place of its own.
  Json fine_tuning() {
    Json spec = spec_to_json(read(test::language_recipe()).model);
    spec.erase("architecture");
    spec["outputs"] = Json::parse(R"([{"name": "class", "query": "learned", "index_dims": [1],
        "channels": 16, "head": "mlp", "head_channels": 2, "single_row": true}])");
    Json json = Json::parse(R"({
      "name": "fine", "task": "text_tasks", "start_from": "pretrained",
      "preprocessor": {"add_special_tokens": true},
      "data": {"tasks": [{"name": "class", "train": "table", "text": "text", "label": "label",
                          "labels": ["0", "1"]}]},
      "batch_size": 4, "steps": 2})");
    json["model"]["spec"] = spec;
    return json;
  }

  Recipe read(const Json& json) { return recipe_from_json(json, folder_ / "r.json", {}); }

  void expect_refused(const Json& json, const std::string& message) {
    try {
      initial_weights(read(json));
      FAIL() << "taken; wanted: " << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }

  static bool equal(const Array& a, const Array& b) {
    return a.shape() == b.shape() &&
           std::equal(a.data<float>(), a.data<float>() + a.numel(), b.data<float>());
  }

  static bool holds(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  test::TemporaryFolder folder_;
  ArrayMap given_;
};

TEST_F(StartFromTest, TakesTheBodyByNameAndStartsHeadsAfresh) {
  Json json = fine_tuning();
  json["seed"] = 99;
  StartReport report;
  const ArrayMap weights = initial_weights(read(json), &report);
  EXPECT_TRUE(
      equal(weights.at("encoder.block.0.0.key.weight"), given_.at("encoder.block.0.0.key.weight")));
  EXPECT_TRUE(equal(weights.at("latents"), given_.at("latents")));
  EXPECT_TRUE(equal(weights.at("decoder.cross_attend.value.weight"),
                    given_.at("decoder.cross_attend.value.weight")));
  EXPECT_TRUE(holds(report.taken, "inputs.inputs.embedding.weight"));
  EXPECT_TRUE(holds(report.fresh, "outputs.class.head.0.weight"));
  EXPECT_TRUE(holds(report.fresh, "outputs.class.query.table"));
  EXPECT_TRUE(holds(report.unused, "outputs.logits.head.bias"));
  EXPECT_EQ(report.taken.size() + report.fresh.size(), weights.size());
  EXPECT_TRUE(report.notes.empty()) << report.notes[0];
}

TEST_F(StartFromTest, ExceptStartsMoreAfresh) {
  Json json = fine_tuning();
  json["start_from"] = Json::parse(R"({"model": "pretrained", "except": ["decoder.", "latents"]})");
  StartReport report;
  const ArrayMap weights = initial_weights(read(json), &report);
  EXPECT_TRUE(holds(report.fresh, "latents"));
  EXPECT_TRUE(holds(report.fresh, "decoder.cross_attend.value.weight"));
  EXPECT_FALSE(equal(weights.at("decoder.cross_attend.value.weight"),
                     given_.at("decoder.cross_attend.value.weight")));
}

TEST_F(StartFromTest, TablesOfAnotherLengthGiveTheRowsTheyShare) {
  Json json = fine_tuning();
  json["model"]["spec"]["inputs"][0]["vocab_size"] = 263;
  json["model"]["spec"]["inputs"][0]["index_dims"] = {12};
  StartReport report;
  const ArrayMap weights = initial_weights(read(json), &report);
  for (const char* name : {"inputs.inputs.embedding.weight", "inputs.inputs.position.table"}) {
    const int64_t rows = std::min(weights.at(name).size(0), given_.at(name).size(0));
    EXPECT_TRUE(std::equal(weights.at(name).data<float>(),
                           weights.at(name).data<float>() + rows * 16,
                           given_.at(name).data<float>()))
        << name;
    EXPECT_TRUE(holds(report.taken, name));
  }
}

TEST_F(StartFromTest, ARunWritesWhatItTookAndStartsThere) {
  const Recipe recipe = read(fine_tuning());
  TrainOptions options;
  options.out = folder_ / "out";
  options.num_threads = 1;
  int told = 0;
  options.on_start = [&](const StartReport& report) { told += holds(report.taken, "latents"); };
  const TrainResult result = train(recipe, options);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(result.start.model, folder_ / "pretrained");
  const Json written = read_json(folder_ / "out/training/start.json");
  EXPECT_EQ(written["taken"], Json(result.start.taken));
  EXPECT_EQ(written["fresh"], Json(result.start.fresh));
}

TEST_F(StartFromTest, RefusesAModelThatDoesNotFit) {
  Json json = fine_tuning();
  json["model"]["spec"]["encoder"]["num_self_attends_per_block"] = 2;
  expect_refused(json, "encoder.block.0.1.key.bias is not there");
  json = fine_tuning();
  json["model"]["spec"]["encoder"]["num_self_attends_per_block"] = 0;
  expect_refused(json, "encoder.block.0.0.key.bias is there, but not in the recipe's model");
  json = fine_tuning();
  json["model"]["spec"]["encoder"]["num_latents"] = 9;
  expect_refused(json, "latents is [8, 16] there, [9, 16] here");
  json = fine_tuning();
  json["model"]["spec"]["encoder"]["self_attend"]["num_heads"] = 4;
  expect_refused(json, "encoder.self_attend.num_heads is 2 there, the recipe's model has 4");
  json = fine_tuning();
  json["model"]["spec"]["inputs"][0]["name"] = "text";
  expect_refused(json, "inputs.text.embedding.weight is not there");
  json = fine_tuning();
  json["start_from"] = "nowhere";
  expect_refused(json, "nowhere");
  json["start_from"] = Json::parse(R"({"model": "pretrained", "exept": []})");
  expect_refused(json, "did you mean 'except'?");
  json["start_from"] = Json::parse(R"({"model": "pretrained", "except": "latents"})");
  expect_refused(json, "must be a list of beginnings of tensor names");
}

TEST_F(StartFromTest, NotesWhatFitsButMeansSomethingElse) {
  Json json = fine_tuning();
  json["model"]["spec"]["encoder"]["num_blocks"] = 3;
  json["model"]["spec"]["compatibility"]["activation"] = "relu";
  StartReport report;
  initial_weights(read(json), &report);
  ASSERT_EQ(report.notes.size(), 2U);
  EXPECT_NE(report.notes[0].find("encoder.num_blocks is 1"), std::string::npos);
}

TEST(StartFrom, TheShippedLanguageModelGivesAClassifier) {
  const std::filesystem::path shipped =
      std::filesystem::path(PERCEIVER_SOURCE_DIR) / "models/byte-mlm-perceiver";
  ModelSpec spec = tasks::load_spec(shipped);
  spec.architecture.clear();
  OutputSpec output = spec.outputs.at(0);
  output.name = "class";
  output.index_dims = {1};
  output.head = HeadKind::kMlp;
  output.head_channels = 2;
  output.of_input.clear();
  output.single_row = true;
  spec.outputs = {output};
  ArrayMap weights = random_parameters(spec, InitScheme::kDeepMind, 1);
  const StartReport report = take_weights({shipped, {}}, spec, weights);
  EXPECT_EQ(report.fresh.size(), 5U);  // the query and a head of two layers
  EXPECT_EQ(report.taken.size() + report.fresh.size(), weights.size());
  check_parameters(spec, weights, "after");
}

}  // namespace
}  // namespace perceiver::train
