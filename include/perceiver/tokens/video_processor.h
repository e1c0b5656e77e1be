#pragma once

#include <cstdint>

#include "perceiver/base/array.h"

namespace perceiver::tokens {

/// What the released multimodal model sees: 16 frames of 224 x 224.
struct VideoProcessorConfig {
  int64_t num_frames = 16;  ///< the first ones of the clip; 0 keeps all
  int64_t size = 224;       ///< side of the square in pixels
  bool repeat_last =
      false;  ///< a clip that is too short shows its last frame on; else it is an error
};

/// Central square of each frame (x / 2 - side / 2 from the left, as DeepMind's colab cuts it),
/// resized to `size` bilinearly without antialiasing as OpenCV does it in 8 bits, then level / 255.
/// @param frames  [T, H, W, 3] U8
/// @return        [num_frames, size, size, 3] F32 in [0, 1]
/// @throws Error(kShape); Error(kArgument) naming both numbers when the clip is too short
Array process_video(const Array& frames, const VideoProcessorConfig& config = {});

/// Back to levels: clamped to [0, 1], times 255, rounded to nearest; NaN becomes 0.
/// @param frames  F32 of any shape, e.g. a reconstruction [T, H, W, 3]
/// @return        U8, same shape
Array frames_to_bytes(const Array& frames);

}  // namespace perceiver::tokens
