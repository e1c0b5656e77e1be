#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "train/data/class_names.h"
#include "train/data/films.h"
#include "train/data/labelled_files.h"
#include "train/task.h"

namespace perceiver::train {

/// Films: in files, or made by rule.
struct AudioVideoDataSpec {
  std::optional<LabelledFilesSpec> files;
  std::optional<GeneratedFilmsSpec> generated;
  ClassSpec classes;
  double frames_per_second = 25;
  int sample_rate = 48000;   ///< Hz
  int64_t train_clips = 10;  ///< starts a training film is cut at, one drawn each time
  int64_t test_clips = 1;    ///< clips of a test film whose probabilities are averaged
  int64_t cache_bytes = 0;   ///< for decoded clips
};

/// Weight in the loss and rows asked for in training, of one output.
struct AnswerSpec {
  std::optional<double> weight;   ///< default 1
  std::optional<int64_t> points;  ///< default 0 = all rows
};

/// What is kept from the model in training.
struct HidingSpec {
  std::optional<double> label;  ///< chance that the label is; default: the spec's mask_probability
  double video = 0;             ///< chance that the whole film is,
  double audio = 0;             ///< or the whole sound; never both
};

/// audio_video: film and sound, and with them a label that may be read; answered with any of film,
/// sound and label. Autoencoding (arXiv 2107.14795 section 4.3) and tagging (arXiv 2103.03206
/// section 4.2) are both of this kind.
struct AudioVideoRecipe : TaskRecipe {
  AudioVideoDataSpec data;
  AnswerSpec video, audio, label;
  HidingSpec hide;
  double label_smoothing = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_audio_video_recipe(Fields& fields,
                                                          const std::filesystem::path& folder);

}  // namespace perceiver::train
