#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/data/class_names.h"
#include "train/data/labelled_files.h"
#include "train/data/sound_files.h"
#include "train/task.h"

namespace perceiver::train {

/// Sounds and their labels.
struct SoundDataSpec {
  LabelledFilesSpec files;
  ClassSpec classes;
  double max_seconds = 30;  ///< of each file
  int64_t cache_bytes = 0;  ///< for decoded sounds
  int64_t test_clips = 1;   ///< windows of a test sound whose probabilities are averaged
};

/// audio_classification: one grid input [samples, 1 or 2] of raw sound, one output [B, classes].
/// `preprocessor` says at which rate (sampling_rate) and whether loudness is taken out
/// (do_normalize).
struct SoundRecipe : TaskRecipe {
  SoundDataSpec data;
  SoundAugmentSpec augment;
  double label_smoothing = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_audio_recipe(Fields& fields,
                                                    const std::filesystem::path& folder);

}  // namespace perceiver::train
