#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/task.h"

namespace perceiver::train {

/// Generated multichannel series: each class is a mixture of waves of its own, with noise.
struct SeriesDataSpec {
  int64_t train_examples = 4096;
  int64_t test_examples = 512;
  double noise = 0.5;
};

/// series: one grid input [T, c] of generated series; an output [B, classes], one of the c
/// channels' next values [B, horizon, c], or both.
struct SeriesRecipe : TaskRecipe {
  SeriesDataSpec data;
  double label_smoothing = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_series_recipe(Fields& fields,
                                                     const std::filesystem::path& folder);

}  // namespace perceiver::train
