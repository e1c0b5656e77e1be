#pragma once

#include <cstdint>
#include <optional>

#include "perceiver/spec/model_spec.h"
#include "perceiver/tasks/video.h"

namespace perceiver::train {

/// Which input and output of a model is picture, sound and label. Told by their form, not their
/// names: [frames, side, side] of 3 channels is film, [samples] of 1 channel sound, one vector a
/// label.
struct AudioVideoRoles {
  std::optional<InputSpec> video_in, audio_in, label_in;
  std::optional<OutputSpec> video_out, audio_out, label_out;
  tasks::ClipShape shape;  ///< what is read of a film, the sample rate aside
  int64_t classes = 0;     ///< of the label, read or answered
  int64_t audio_row = 0;   ///< samples per row of audio_out
};

/// @throws Error(kArgument) naming what plays no role or contradicts another part
AudioVideoRoles audio_video_roles(const ModelSpec& model);

}  // namespace perceiver::train
