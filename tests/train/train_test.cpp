#include "perceiver/train/train.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/tasks/bundle.h"
#include "train/checkpoint.h"
#include "train/initial.h"
#include "train/tiny.h"
#include "train/training.h"

namespace perceiver::train {
namespace {

using test::image_recipe;
using test::language_recipe;
using test::series_recipe;
using test::Training;

TEST_F(Training, LanguageModelLearnsALine) {
  const TrainResult result = run(language_recipe(), "out");
  EXPECT_EQ(result.steps, 30);
  EXPECT_LT(losses_.back(), 0.7 * losses_.front());
  ASSERT_EQ(result.metrics.size(), 6U);
  EXPECT_EQ(result.metrics[0].first, "byte_bits");
  EXPECT_LT(result.metrics[0].second, 5.5);
  EXPECT_GT(result.metrics[2].second, 100);
}

TEST_F(Training, ClassifierLearnsLeftFromRight) {
  Json json = image_recipe();
  json["steps"] = 60;
  const TrainResult result = run(json, "out");
  EXPECT_EQ(result.metrics[0].first, "accuracy");
  EXPECT_EQ(result.metrics[0].second, 1);
}

TEST_F(Training, SeriesModelTellsStatesAndWhatComesNext) {
  const TrainResult result = run(series_recipe(), "out");
  EXPECT_LT(losses_.back(), 0.7 * losses_.front());
  ASSERT_EQ(result.metrics.size(), 3U);
  EXPECT_EQ(result.metrics[0].first, "accuracy");
  EXPECT_GT(result.metrics[0].second, 0.5);
  EXPECT_EQ(result.metrics[2].first, "last_value_rmse");
  EXPECT_LT(result.metrics[1].second, result.metrics[2].second);
}

TEST_F(Training, EqualRunsAreEqualBitForBit) {
  run(image_recipe(), "a");
  run(image_recipe(), "b");
  EXPECT_EQ(checkpoint_of("a"), checkpoint_of("b"));
  Json other = image_recipe();
  other["seed"] = 4;
  run(other, "c");
  EXPECT_NE(bytes_of("a/model.safetensors"), bytes_of("c/model.safetensors"));
}

TEST_F(Training, AResumedRunEqualsAnUninterruptedOneBitForBit) {
  for (const Json& json : {image_recipe(), language_recipe()}) {
    const std::string name = json["name"];
    run(json, name + "-straight");
    for (const int64_t stop : {1, 5}) {
      const std::string out = cat(name, "-broken-", stop);
      const TrainResult stopped = run(json, out, stop);
      EXPECT_TRUE(stopped.stopped);
      EXPECT_EQ(stopped.steps, stop + 1);  // asked after step `stop`, seen after the next
      EXPECT_FALSE(std::filesystem::exists(folder_ / out / "model.safetensors"));
      EXPECT_FALSE(run(json, out, 0, true).stopped);
      EXPECT_EQ(bytes_of(name + "-straight/model.safetensors"),
                bytes_of(out + "/model.safetensors"));
      EXPECT_EQ(checkpoint_of(name + "-straight"), checkpoint_of(out));
    }
  }
}

TEST_F(Training, ResumeRefusesAnotherRecipe) {
  run(image_recipe(), "out", 2);
  Json other = image_recipe();
  other["optimiser"]["learning_rate"] = 0.5;
  EXPECT_THROW(run(other, "out", 0, true), Error);
  Json renamed = image_recipe();
  renamed["description"] = "changes nothing";
  EXPECT_EQ(run(renamed, "out", 0, true).steps, 12);
}

// What is trained is the average over all micro-batches, as if they were one batch.
TEST_F(Training, AccumulatedMicroBatchesEqualOneLargeBatch) {
  for (Json json : {image_recipe(), language_recipe()}) {
    json["data"].erase("short_fraction");
    if (json["model"].contains("spec")) {
      json["model"]["spec"].erase("compatibility");  // dropout draws per micro-batch
    }
    const std::string name = json["name"];
    run(json, name + "-whole");
    const std::vector<double> whole = std::exchange(losses_, {});
    json["batch_size"] = json["batch_size"].get<int64_t>() / 4;
    json["accumulate"] = 4;
    run(json, name + "-parts");
    const std::vector<double> parts = std::exchange(losses_, {});
    ASSERT_EQ(whole.size(), parts.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      EXPECT_NEAR(parts[i], whole[i], 2e-4 * std::abs(whole[i])) << name << ", step " << i + 1;
    }
  }
}

TEST_F(Training, AnyNumberOfLoadersMakesTheSameRun) {
  for (const int loaders : {0, 1, 3}) {
    run(image_recipe(), cat("loaders", loaders), 0, false, loaders);
  }
  EXPECT_EQ(checkpoint_of("loaders0"), checkpoint_of("loaders1"));
  EXPECT_EQ(checkpoint_of("loaders0"), checkpoint_of("loaders3"));
}

TEST_F(Training, KeepsTheNewestCheckpointsAndTheBestModel) {
  Json json = image_recipe();
  json["checkpoint_every"] = 2;
  json["keep_checkpoints"] = 3;
  json["evaluate_every"] = 3;
  json["keep_best"] = "accuracy";
  run(json, "out");
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out/training")) {
    if (entry.path().filename().string().starts_with("checkpoint-")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"checkpoint-000000008.safetensors",
                                             "checkpoint-000000010.safetensors",
                                             "checkpoint-000000012.safetensors"}));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/best/model.safetensors"));
  json["keep_best"] = "acuracy";
  EXPECT_THROW(run(json, "other"), Error);
}

TEST_F(Training, AveragedWeightsAreWhatIsSavedAndResumeExactly) {
  Json json = image_recipe();
  run(json, "plain");
  json["average_decay"] = 0.9;
  run(json, "averaged");
  EXPECT_NE(bytes_of("plain/model.safetensors"), bytes_of("averaged/model.safetensors"));
  run(json, "broken", 5);
  run(json, "broken", 0, true);
  EXPECT_EQ(checkpoint_of("averaged"), checkpoint_of("broken"));
  EXPECT_EQ(bytes_of("averaged/model.safetensors"), bytes_of("broken/model.safetensors"));
}

TEST_F(Training, ARunIsNotReplacedUnasked) {
  run(image_recipe(), "out");
  const std::string before = checkpoint_of("out");
  EXPECT_THROW(run(image_recipe(), "out"), Error);
  EXPECT_EQ(checkpoint_of("out"), before);
}

TEST_F(Training, ARunEndsEarlyOrGoesOnWhenItsScheduleIsNamed) {
  Json whole = image_recipe();
  whole["schedule"]["steps"] = 12;
  run(whole, "whole");
  Json cut = whole;
  cut["steps"] = 5;
  run(cut, "out");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/model.safetensors"));
  run(whole, "out", 0, true);
  EXPECT_EQ(bytes_of("whole/model.safetensors"), bytes_of("out/model.safetensors"));
  Json longer = image_recipe();
  longer["steps"] = 20;  // and so another cosine
  EXPECT_THROW(run(longer, "out", 0, true), Error);
}

TEST_F(Training, ResumeNamesAMissingTensor) {
  run(image_recipe(), "out", 2);
  const auto path = newest_checkpoint(folder_ / "out/training");
  io::Metadata metadata;
  ArrayMap arrays;
  for (const auto& [name, array] : io::read_safetensors(path, &metadata)) {
    arrays.emplace(name, array.clone());
  }
  arrays.erase("model.latents");
  metadata["crc32c"] = checksum(arrays, metadata);
  io::write_safetensors(path, arrays, metadata);
  try {
    run(image_recipe(), "out", 0, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("model.latents"), std::string::npos) << error.what();
  }
}

TEST_F(Training, StopsAtALossThatIsNotFiniteNamingTheStep) {
  Json json = language_recipe();
  json["optimiser"]["learning_rate"] = 1e30;
  json["optimiser"]["clip_norm"] = 0;
  json["schedule"]["warmup_steps"] = 0;
  json["checkpoint_every"] = 1;
  try {
    run(json, "out");
    FAIL() << "trained with a learning rate of 1e30";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("of step "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("checkpoint-0"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/model.safetensors"));
}

TEST_F(Training, EvaluateMeasuresWhatTrainReported) {
  for (Json json : {image_recipe(), language_recipe()}) {
    json["save_dtype"] = "F16";
    const std::string out = json["name"];
    const TrainResult result = run(json, out);
    const EvalResult measured = evaluate(read(json), folder_ / out);
    ASSERT_EQ(measured.metrics.size(), result.metrics.size());
    for (size_t i = 0; i < measured.metrics.size(); ++i) {
      EXPECT_EQ(measured.metrics[i].first, result.metrics[i].first);
      EXPECT_DOUBLE_EQ(measured.metrics[i].second, result.metrics[i].second);
    }
    EvalOptions three;
    three.limit = 3;
    EXPECT_EQ(evaluate(read(json), folder_ / out, three).examples, 3);
  }
}

TEST_F(Training, SavesTheAskedDtypeAndThePreprocessor) {
  Json json = image_recipe();
  json["save_dtype"] = "BF16";
  run(json, "out");
  for (const auto& info : io::list_safetensors(folder_ / "out/model.safetensors")) {
    EXPECT_EQ(info.dtype, DType::kBF16) << info.name;
  }
  const tasks::Bundle bundle = tasks::load_bundle(folder_ / "out");
  ASSERT_TRUE(bundle.preprocessor.has_value());
  EXPECT_EQ((*bundle.preprocessor)["image_mean"], Json::array({0.5}));
}

TEST_F(Training, WritesAHistoryAndTheRecipe) {
  Json json = image_recipe();
  json["evaluate_every"] = 4;
  run(json, "out");
  EXPECT_EQ(read_json(folder_ / "out/training/recipe.json"), json);
  const std::string log = bytes_of("out/training/log.jsonl");
  int with_metrics = 0;
  int64_t last = 0;
  for (size_t at = 0; at < log.size(); at = log.find('\n', at) + 1) {
    const Json line = Json::parse(log.substr(at, log.find('\n', at) - at));
    with_metrics += line.contains("metrics");
    EXPECT_GE(line["step"].get<int64_t>(), last);
    last = line["step"];
  }
  EXPECT_EQ(with_metrics, 3);  // steps 4 and 8, and the finished model
  EXPECT_EQ(last, 12);
}

TEST_F(Training, RefusesAModelThatDoesNotFitTheDataBeforeTheFirstStep) {
  const auto expect_refused = [&](const Json& json, const std::string& message) {
    try {
      run(json, "out");
      FAIL() << "trained; wanted: " << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    EXPECT_TRUE(losses_.empty());
  };
  Json json = image_recipe();
  json["model"]["spec"]["inputs"][0]["index_dims"] = {5, 4};
  expect_refused(json, "picture 0 is [4, 4, 1], the model's input image needs [5, 4, 1]");
  json = image_recipe();
  json["model"]["spec"]["decoder"]["output_channels"] = 1;
  expect_refused(json, "picture 1 has label 1, the model has 1 classes");
  json = image_recipe();
  json.erase("preprocessor");
  expect_refused(json, "preprocessor is missing");
  json = image_recipe();
  json["preprocessor"]["image_std"] = {0};
  expect_refused(json, "image_std holds 0");
  json = language_recipe();
  json["data"]["short_minimum"] = 20;
  expect_refused(json, "data.short_minimum is 20 bytes, the model reads 14");
  json = image_recipe();
  json["task"] = "series";
  json["data"] = Json::object();
  expect_refused(json, "needs an input with one axis");
  json = series_recipe();
  json["model"]["spec"]["outputs"][1]["head_channels"] = 3;
  expect_refused(
      json, "output next is neither one row of classes nor a series of the input's 2 channels");
}

TEST_F(Training, LocalAttentionNeedsEqualWidths) {
  Json json = language_recipe();
  json["model"]["hugging_face"]["d_latents"] = 24;
  json["model"]["hugging_face"]["v_channels"] = 24;
  EXPECT_THROW(initial_weights(read(json)), Error);
}

TEST_F(Training, InitialWeightsFollowTheRecipe) {
  const Recipe recipe = read(language_recipe());
  const ArrayMap weights = initial_weights(recipe);
  const Array& table = weights.at("inputs." + recipe.model.inputs[0].name + ".position.table");
  // Row 0 lies at x = -1: sin(-pi f), cos(-pi f) with f = 1 first, amplitude 0.1 sqrt(2).
  EXPECT_NEAR(table.data<float>()[0], 0, 1e-6);
  EXPECT_NEAR(table.data<float>()[8], -0.14142136, 1e-6);
  const Array& query = weights.at("decoder.cross_attend.query.weight");
  const Array& key = weights.at("decoder.cross_attend.key.weight");
  EXPECT_TRUE(
      std::equal(query.data<float>(), query.data<float>() + query.numel(), key.data<float>()));
}

}  // namespace
}  // namespace perceiver::train
