#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/io/audio.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/ranking.h"
#include "perceiver/tokens/engine.h"

// What is heard in a sound.

namespace perceiver::tasks {

/// Whether the model reads raw sound, a grid [samples] of 1 or 2 channels, and answers with one row
/// of classes.
bool is_sound_classifier(const ModelSpec& spec);

struct ClassifySoundOptions {
  int64_t top = 5;
  /// Windows of the model's length, spread over a longer sound; their probabilities are averaged.
  int64_t windows = 1;
};

/// Resamples to the rate that the model's preprocessor_config.json states (sampling_rate) and
/// classifies. A shorter sound lies in the middle of silence, as in training.
/// @throws Error(kArgument) when the model is no classifier of sounds; Error(kFormat) when it does
///         not state its rate
std::vector<Ranked> classify_sound(const Bundle& bundle, Engine& engine, const io::Audio& sound,
                                   const ClassifySoundOptions& options = {});

}  // namespace perceiver::tasks
