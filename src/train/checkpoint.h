#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/io/safetensors.h"
#include "perceiver/nn/parameters.h"
#include "perceiver/train/train.h"
#include "train/average.h"
#include "train/optimiser.h"

namespace perceiver::train {

/// Where a run stands beside weights and optimiser: all else follows from recipe and step.
struct RunState {
  int64_t step = 0;     ///< steps finished
  int64_t batches = 0;  ///< taken by them: more than one per step with several processes
  double mean_loss = 0;
  std::optional<double> best;  ///< of the metric keep_best names
  /// Stopped before the measurement that was due after `step`: the step's loss, learning rate and
  /// gradient norm, not logged yet.
  std::optional<StepRecord> unmeasured;
  std::string recipe;  ///< fingerprint of what must not change between save and resume
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
/// all, with a checksum of everything. @throws Error(kIo)
void save_checkpoint(const std::filesystem::path& path, const Trained& trained,
                     const RunState& state);

/// Reads weights, optimiser state and average into place; after an error they hold anything.
/// @throws Error(kIo), Error(kFormat) when the file is damaged or a tensor missing or misshapen,
///         Error(kArgument) when the recipe differs
RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         const Trained& trained);

/// <folder>/checkpoint-<steps>.safetensors
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step);
/// Those of most steps first. A file of that name is complete: it got its name when it was.
std::vector<std::filesystem::path> checkpoints(const std::filesystem::path& folder);
/// The first of these; empty path if there is none.
std::filesystem::path newest_checkpoint(const std::filesystem::path& folder);
/// Renames one that does not load, so that it no longer counts as a checkpoint. @return the new
/// path
std::filesystem::path set_aside(const std::filesystem::path& checkpoint);
/// CRC-32C of names and contents, as text: a checkpoint's own is its metadata entry "crc32c", which
/// does not count itself.
std::string checksum(const ArrayMap& arrays, const io::Metadata& metadata);
/// Removes all but the newest `keep`.
void remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep);
/// Removes what interrupted writes left in `folder`; nobody else may be writing there.
void remove_unfinished_files(const std::filesystem::path& folder);

}  // namespace perceiver::train
