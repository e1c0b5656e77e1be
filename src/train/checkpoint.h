#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "perceiver/nn/parameters.h"
#include "train/optimiser.h"

namespace perceiver::train {

/// Where a run stands beside weights and optimiser: all else follows from recipe and step.
struct RunState {
  int64_t step = 0;  ///< steps finished
  double mean_loss = 0;
  std::string recipe;  ///< fingerprint of what must not change between save and resume
};

/// Everything of a recipe that shapes the arithmetic of a step, as text: a resumed run must have
/// the same. Names, descriptions and how often to evaluate or save may differ; so may the number of
/// steps as long as the schedule's length stays.
std::string recipe_fingerprint(const Recipe& recipe);

/// Writes weights ("model."), optimiser state ("optimiser.") and RunState, whole or not at all.
/// @throws Error(kIo)
void save_checkpoint(const std::filesystem::path& path, const nn::Parameters& parameters,
                     const Optimiser& optimiser, const RunState& state);

/// Reads weights and optimiser state into place.
/// @throws Error(kIo), Error(kFormat) when a tensor is missing or misshapen or the recipe differs
RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         nn::Parameters& parameters, Optimiser& optimiser);

}  // namespace perceiver::train
