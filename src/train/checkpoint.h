#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "perceiver/nn/parameters.h"
#include "train/average.h"
#include "train/optimiser.h"

namespace perceiver::train {

/// Where a run stands beside weights and optimiser: all else follows from recipe and step.
struct RunState {
  int64_t step = 0;     ///< steps finished
  int64_t batches = 0;  ///< taken by them: more than one per step with several processes
  double mean_loss = 0;
  std::optional<double> best;  ///< of the metric keep_best names
  std::string recipe;          ///< fingerprint of what must not change between save and resume
};

/// Everything of a recipe that shapes the arithmetic of a step, as text: a resumed run must have
/// the same. Names, descriptions and how often to evaluate or save may differ; so may the number of
/// steps as long as the schedule's length stays.
std::string recipe_fingerprint(const Recipe& recipe);

/// What a checkpoint holds beside RunState.
struct Trained {
  nn::Parameters& parameters;
  Optimiser& optimiser;
  AveragedWeights& average;
};

/// Writes weights ("model."), optimiser state ("optimiser."), average and RunState, whole or not at
/// all. @throws Error(kIo)
void save_checkpoint(const std::filesystem::path& path, const Trained& trained,
                     const RunState& state);

/// Reads weights, optimiser state and average into place.
/// @throws Error(kIo), Error(kFormat) when a tensor is missing or misshapen or the recipe differs
RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         const Trained& trained);

/// <folder>/checkpoint-<steps>.safetensors
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step);
/// The one of most steps. A file of that name is complete: it got its name when it was.
/// @return empty path if there is none
std::filesystem::path newest_checkpoint(const std::filesystem::path& folder);
/// Removes all but the newest `keep`, and what an interrupted write left behind.
void remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep);

}  // namespace perceiver::train
