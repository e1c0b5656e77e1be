#pragma once

#include "perceiver/base/array.h"

namespace perceiver::tokens {

struct FlowPictureOptions {
  /// Flow of this length in pixels gets full colour, longer flow is darkened; 0 takes the longest
  /// valid flow of the picture.
  double max_radius = 0.0;
};

/// Flow as colours: direction as hue on the 55-step wheel of Baker et al. ("A Database and
/// Evaluation Methodology for Optical Flow", 2007), length as saturation from white. Not valid
/// pixels are black.
/// @param uv     [H, W, 2] F32, pixels, x then y
/// @param valid  [H, W] Bool, or an undefined array when all are
/// @return       [H, W, 3] U8 RGB
/// @throws Error(kShape); Error(kArgument) for a negative radius
Array flow_picture(const Array& uv, const Array& valid = {},
                   const FlowPictureOptions& options = {});

}  // namespace perceiver::tokens
