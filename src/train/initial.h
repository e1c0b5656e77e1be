#pragma once

#include "perceiver/base/array.h"
#include "perceiver/train/recipe.h"

namespace perceiver::train {

/// Weights a run starts from: random_parameters() and then what InitSpec changes.
/// @throws Error(kArgument) when local_attention does not fit the model
ArrayMap initial_weights(const Recipe& recipe);

}  // namespace perceiver::train
