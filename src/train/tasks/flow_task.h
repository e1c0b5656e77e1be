#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "train/data/flow_augment.h"
#include "train/data/flow_set.h"
#include "train/flow_loss.h"
#include "train/task.h"

namespace perceiver::train {

/// A stretch of the run in which pairs are changed in one way.
struct FlowPhase {
  int64_t until = 0;      ///< the first step that is not in it any more; the last phase's: no end
  bool reversed = false;  ///< every pair is shown as it is, then played backwards
  FlowAugmentSpec augment;
};

/// optical_flow: a model that tasks::is_flow_model(): one grid input [2, H, W, 27], one output of a
/// flow vector per pixel.
struct FlowRecipe : TaskRecipe {
  std::vector<FlowSource> train, test;
  CropPlace crop = CropPlace::kRandom;
  std::vector<FlowPhase> phases;  ///< in order; never empty
  FlowLossSpec loss;
  int64_t points = 0;  ///< output pixels a batch is asked for; 0 = all

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_flow_recipe(Fields& fields,
                                                   const std::filesystem::path& folder);

}  // namespace perceiver::train
