#pragma once

#include <cstdint>

#include "train/random.h"

namespace perceiver::train {

/// Small random changes of training pictures; each is drawn uniformly from [-max, max].
struct AugmentSpec {
  double shift = 0;     ///< pixels, each axis
  double rotation = 0;  ///< degrees
  double scale = 0;     ///< fraction: 0.1 = 0.9 to 1.1, each axis
  double shear = 0;     ///< fraction
};

/// Extents of one picture, channels last.
struct PictureSize {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 1;
};

/// Moves, turns, scales and shears one picture about its centre by random amounts: bilinear, points
/// outside are 0. Nothing is drawn and the picture is copied when all of `spec` is 0.
/// @param in  [H, W, c] bytes   @param out [H, W, c], in the range of the bytes
void augment(const AugmentSpec& spec, const PictureSize& size, Random& random, const uint8_t* in,
             float* out);

}  // namespace perceiver::train
