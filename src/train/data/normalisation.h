#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/train/recipe.h"

namespace perceiver::train {

/// Takes the bytes of a picture to what a model reads: value * scale + offset, by channel.
struct Normalisation {
  std::vector<float> scale, offset;

  /// @param values  channels last, `count` in all; changed in place
  void apply(float* values, int64_t count) const;
};

/// From rescale_factor, image_mean and image_std of the recipe's preprocessor: the numbers that the
/// image processor uses when the model is run on a file.
/// @throws Error(kFormat) when they are missing or do not fit `channels`, Error(kArgument) for a
///         deviation of 0
Normalisation read_normalisation(const Recipe& recipe, int64_t channels);

}  // namespace perceiver::train
