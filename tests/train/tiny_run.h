#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "perceiver/train/train.h"
#include "train/expect_error.h"
#include "train/task.h"
#include "train/tiny.h"

// Recipes beside the data of a test, run or refused.

namespace perceiver::train::test {

inline Recipe recipe_in(const TemporaryFolder& folder, const Json& json) {
  return recipe_from_json(json, folder / "r.json", {});
}

inline TrainResult run_in(const TemporaryFolder& folder, const Json& json,
                          const std::string& out = "out") {
  TrainOptions options;
  options.out = folder / out;
  options.num_threads = 1;
  options.restart = true;
  return train(recipe_in(folder, json), options);
}

inline double metric(const Metrics& metrics, const std::string& name) {
  for (const auto& [known, value] : metrics) {
    if (known == name) {
      return value;
    }
  }
  ADD_FAILURE() << "no metric " << name;
  return 0;
}

/// The task of a recipe, its data read.
inline std::unique_ptr<Task> task_of(const Recipe& recipe,
                                     TaskData part = TaskData::kTrainAndTest) {
  return recipe.task_recipe->make(recipe, recipe.model, part);
}

/// Expects that recipe or data are refused before the first step, with `message`.
inline void expect_refused(const TemporaryFolder& folder, const Json& json,
                           const std::string& message) {
  expect_error(
      [&] {
        const Recipe recipe = recipe_in(folder, json);
        task_of(recipe);
      },
      message);
}

/// Tests with a folder: data, recipes beside it, runs.
class Runs : public ::testing::Test {
 protected:
  Recipe read(const Json& json) { return recipe_in(folder_, json); }

  /// A fresh run; `losses_` are those of its steps.
  TrainResult run(const Json& json, const std::string& out = "out") {
    losses_.clear();
    TrainOptions options;
    options.out = folder_ / out;
    options.num_threads = 1;
    options.restart = true;
    options.on_step = [&](const StepRecord& record) { losses_.push_back(record.loss); };
    return train(read(json), options);
  }

  void expect_refused(const Json& json, const std::string& message) {
    test::expect_refused(folder_, json, message);
  }

  TemporaryFolder folder_;
  std::vector<double> losses_;
};

}  // namespace perceiver::train::test
