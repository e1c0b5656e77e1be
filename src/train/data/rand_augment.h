#pragma once

#include <cstdint>

#include "perceiver/base/array.h"
#include "train/data/picture_ops.h"
#include "train/random.h"

namespace perceiver::train {

/// RandAugment: `layers` operations drawn evenly (with repetition) from the sixteen, each as strong
/// as `magnitude` says. Translations and Cutout are in pixels of the picture they are applied to;
/// the defaults are meant for ImageNet's crops.
struct RandAugmentSpec {
  int64_t layers = 0;        ///< 0 = none; the paper's recipe: 4
  double magnitude = 5;      ///< 0..10
  double translation = 100;  ///< pixels at magnitude 10
  double cutout = 40;        ///< half the side of the square at magnitude 10, pixels
};

/// How strong `op` is at the spec's magnitude (autoaugment's level functions); those with two
/// directions are positive.
double amount_of(PictureOp op, const RandAugmentSpec& spec);

/// @param picture  [H, W, c] bytes, c 1 or 3
Array rand_augment(const RandAugmentSpec& spec, const Array& picture, Random& random);

}  // namespace perceiver::train
