#pragma once

#include <cstdint>

#include "perceiver/train/recipe.h"
#include "train/random.h"

namespace perceiver::train {

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
