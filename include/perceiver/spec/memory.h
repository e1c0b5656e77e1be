#pragma once

#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/plan.h"

namespace perceiver {

/// Memory of one stage of the runtime engine in float32, estimated.
struct StageMemory {
  std::string stage;         ///< as in StageCost
  double weight_bytes = 0;   ///< held as long as the model
  double working_bytes = 0;  ///< while the stage runs
  std::string working;       ///< what that is, in words
};

/// @param plans   of the same spec and request
/// @param budget  bytes a block of tokens or rows may take; 0 = the engine's default
std::vector<StageMemory> estimate_memory(const ModelSpec& spec,
                                         const std::vector<AttentionPlan>& plans,
                                         const PlanRequest& request = {}, int64_t budget = 0);

/// All weights, the inputs, and the largest stage.
double peak_bytes(const std::vector<StageMemory>& stages);

}  // namespace perceiver
