#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"
#include "train/random.h"

namespace perceiver::train {

/// A part of a picture, in pixels.
struct CropBox {
  int64_t top = 0, left = 0, height = 0, width = 0;
  bool operator==(const CropBox&) const = default;
};

/// Inception's random crop; defaults as DeepMind trains on ImageNet.
struct RandomCropSpec {
  double min_area = 0.08, max_area = 1;            ///< of the picture's area
  double min_aspect = 0.75, max_aspect = 4.0 / 3;  ///< width / height
  int64_t tries = 10;
};

/// Draws area (evenly) and aspect (evenly in its logarithm) until the box fits, then its place. The
/// whole picture after `tries` boxes that do not fit, as in TensorFlow.
CropBox draw_crop(const RandomCropSpec& spec, int64_t height, int64_t width, Random& random);

/// @param picture  [H, W, c] of bytes   @return [box.height, box.width, c]
Array crop(const Array& picture, const CropBox& box);

/// Left and right swapped. @param picture  [H, W, c] of bytes
Array mirrored(const Array& picture);

/// Moves the content of a picture down and right by whole pixels; what comes in is 0.
/// @param values  [height, width, channels], changed in place
void shift(int64_t height, int64_t width, int64_t channels, int64_t down, int64_t right,
           float* values);

}  // namespace perceiver::train
