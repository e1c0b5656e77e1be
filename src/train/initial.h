#pragma once

#include "perceiver/base/array.h"
#include "perceiver/train/recipe.h"
#include "perceiver/train/train.h"

namespace perceiver::train {

/// Weights a run starts from: random_parameters(), then what InitSpec changes, then what StartFrom
/// brings.
/// @param report  filled with what was taken, unless null
/// @throws Error(kArgument) when local_attention or start_from does not fit the model; what
///         tasks::load_bundle() throws
ArrayMap initial_weights(const Recipe& recipe, StartReport* report = nullptr);

}  // namespace perceiver::train
