#pragma once

#include "perceiver/distributed/group.h"
#include "train/checkpoint.h"

namespace perceiver::train {

/// Before the first step: makes sure that all processes run one recipe, and gives them rank 0's
/// weights, optimiser state and place in the run.
/// @throws Error(kArgument) naming the rank whose recipe or model is another; Error(kIo)
void share_start(distributed::Group& group, const Recipe& recipe, const Trained& trained,
                 RunState& state);

}  // namespace perceiver::train
