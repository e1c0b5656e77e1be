#include <algorithm>
#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "train/checkpoint.h"
#include "train/tiny.h"
#include "train/training.h"

// A run that was broken off and resumed ends as one that was not; killed processes are
// tests/train/killed_runs*_test.py's subject.

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;
using test::image_recipe;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Resume : public test::Training {
 protected:
  // What a run leaves that must not depend on how often it was broken off: by relative path.
  std::map<std::string, std::string> left_by(const std::string& out) {
    std::map<std::string, std::string> left;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / out)) {
      const std::string name = fs::relative(entry.path(), folder_ / out).string();
      if (entry.is_regular_file() && name.find("tfevents") == std::string::npos) {
        left[name] = name == "training/log.jsonl" ? history(entry.path())
                                                  : read_file(entry.path(), kAnySize);
      }
    }
    return left;
  }

  // log.jsonl without what depends on the clock.
  static std::string history(const fs::path& path) {
    std::ifstream file(path);
    std::string text;
    for (std::string line; std::getline(file, line);) {
      Json record = Json::parse(line);
      for (const char* clock :
           {"seconds", "time", "examples_per_second", "step_seconds", "waiting_share"}) {
        record.erase(clock);
      }
      text += record.dump() + "\n";
    }
    return text;
  }

  void expect_same(const std::string& broken, const std::string& straight) {
    const auto wanted = left_by(straight);
    auto found = left_by(broken);
    std::erase_if(found, [](const auto& file) { return file.first.ends_with(".damaged"); });
    for (const auto& [name, bytes] : wanted) {
      EXPECT_TRUE(found[name] == bytes) << broken << "/" << name << " differs from " << straight;
    }
    EXPECT_EQ(found.size(), wanted.size()) << broken;
  }

  // Recipe with a measurement every third step that keeps the best, and checkpoints as given.
  static Json measured(int64_t checkpoint_every) {
    Json json = image_recipe();
    json["checkpoint_every"] = checkpoint_every;
    json["evaluate_every"] = 3;
    json["keep_best"] = "loss";
    json["best_is_lowest"] = true;
    return json;
  }

  // Runs with a flag that the `count`-th progress call of an evaluation raises.
  TrainResult stop_in_evaluation(const Json& json, const std::string& out, int count,
                                 bool resume = false) {
    const Recipe recipe = read(json);
    std::atomic<bool> stop{false};
    TrainOptions options;
    options.out = folder_ / out;
    options.num_threads = 1;
    options.resume = resume;
    options.stop = &stop;
    options.progress = [&](const Progress&) { stop = stop || --count == 0; };
    return train(recipe, options);
  }

  fs::path newest(const std::string& out) { return newest_checkpoint(folder_ / out / "training"); }
};

TEST_F(Resume, EverySavePatternContinuesExactly) {
  int index = 0;
  for (const int64_t every : {0, 1, 2, 3}) {
    Json json = measured(every);
    json["accumulate"] = every == 2 ? 2 : 1;
    json["average_decay"] = every == 3 ? 0.9 : 0;
    const std::string straight = cat("straight", every);
    run(json, straight);
    const int loaders = std::vector{0, 1, 3}[static_cast<size_t>(index++) % 3];
    const std::string broken = cat("broken", every);
    bool resume = false;
    for (const int64_t stop : {1, 3, 6, 9}) {  // each seen one step later
      EXPECT_TRUE(run(json, broken, stop, resume, loaders).stopped);
      resume = true;
    }
    run(json, broken, 0, true, loaders);
    for (const std::string& out : {broken, straight}) {  // signals leave checkpoints of their own
      remove_old_checkpoints(folder_ / out / "training", 1);
    }
    expect_same(broken, straight);
  }
}

TEST_F(Resume, ADamagedCheckpointIsPassedOverAndKept) {
  Json json = measured(2);
  run(json, "straight");
  const auto damage = std::map<std::string, std::function<std::string(std::string)>>{
      {"short", [](const std::string& bytes) { return bytes.substr(0, bytes.size() / 2); }},
      {"flipped",
       [](std::string bytes) {
         bytes[bytes.size() - 5] ^= 1;
         return bytes;
       }},
      {"empty", [](const std::string&) { return std::string(); }},
      {"other", [](const std::string&) { return std::string(5000, 'x'); }}};
  for (const auto& [name, change] : damage) {
    run(json, name, 7);  // leaves step 6, and step 8 on the signal
    const fs::path hurt = newest(name);
    test::write_bytes(hurt, change(read_file(hurt, kAnySize)));
    notes_.clear();
    run(json, name, 0, true);
    ASSERT_EQ(notes_.size(), 1U) << name;
    EXPECT_THAT(notes_[0], HasSubstr("checkpoint-000000008.safetensors")) << name;
    EXPECT_THAT(notes_[0], HasSubstr("kept as checkpoint-000000008.safetensors.damaged")) << name;
    EXPECT_TRUE(fs::exists(hurt.string() + ".damaged"));
    expect_same(name, "straight");
  }
}

TEST_F(Resume, SaysSoWhenNoCheckpointLoads) {
  Json json = measured(2);
  run(json, "out", 7);
  for (const fs::path& path : checkpoints(folder_ / "out/training")) {
    test::write_bytes(path, "x");
  }
  try {
    run(json, "out", 0, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_THAT(error.what(), HasSubstr("checkpoint-000000008.safetensors"));
    EXPECT_THAT(error.what(), HasSubstr("no checkpoint here loads"));
  }
  EXPECT_THROW(run(json, "nothing", 0, true), Error);
  EXPECT_FALSE(fs::exists(folder_ / "nothing"));
}

TEST_F(Resume, ACheckpointOfAnotherRecipeIsNoDamage) {
  Json json = measured(2);
  run(json, "out", 7);
  json["optimiser"]["learning_rate"] = 0.5;
  try {
    run(json, "out", 0, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_THAT(error.what(), HasSubstr("another recipe"));
  }
  EXPECT_EQ(checkpoints(folder_ / "out/training").size(), 2U);
}

// A scheduler does not wait for an evaluation to end; what it owes is measured on resume.
TEST_F(Resume, AnEvaluationThatASignalCutsShortIsDoneLater) {
  for (Json json : {measured(2), test::language_recipe()}) {
    const std::string name = json["name"];
    json["checkpoint_every"] = 2;
    json["evaluate_every"] = 3;
    run(json, name);
    const std::string out = name + "-broken";
    const TrainResult first = stop_in_evaluation(json, out, 1);
    EXPECT_TRUE(first.stopped);
    EXPECT_EQ(first.steps, 3);
    EXPECT_TRUE(stop_in_evaluation(json, out, 1, true).stopped);
    run(json, out, 0, true);
    expect_same(out, name);
  }
}

TEST_F(Resume, ALastMeasurementThatASignalCutsShortIsDoneLater) {
  const Json json = image_recipe();
  const TrainResult straight = run(json, "straight");
  const TrainResult stopped = stop_in_evaluation(json, "broken", 1);
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.steps, 12);
  const TrainResult result = run(json, "broken", 0, true);
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(result.metrics, straight.metrics);
  expect_same("broken", "straight");
}

TEST_F(Resume, LinesAheadOfTheCheckpointAndTornOnesAreDropped) {
  const Json json = measured(2);
  run(json, "straight");
  run(json, "broken", 5);
  std::ofstream(folder_ / "broken/training/log.jsonl", std::ios::app)
      << R"({"step": 7, "loss": 1.5})"
      << "\n"
      << R"({"step": 8, "lo)";
  run(json, "broken", 0, true);
  expect_same("broken", "straight");
}

TEST_F(Resume, WhatInterruptedWritesLeftIsRemoved) {
  const Json json = measured(2);
  run(json, "straight");
  run(json, "broken", 5);
  test::write_bytes(folder_ / "broken/training/.tmp-1-0-checkpoint-000000009.safetensors", "x");
  test::write_bytes(folder_ / "broken/best/.tmp-1-0-model.safetensors", "x");
  fs::create_directory(folder_ / "broken/.best.pending-17");
  test::write_bytes(folder_ / "broken/.best.pending-17/spec.json", "x");
  run(json, "broken", 0, true);
  expect_same("broken", "straight");
}

TEST_F(Resume, TwoProcessesDoNotTrainInOneFolder) {
  run(image_recipe(), "out", 2);
  const FileLock other(folder_ / "out/training/.lock");
  try {
    run(image_recipe(), "out", 0, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("another process"));
  }
}

}  // namespace
}  // namespace perceiver::train
