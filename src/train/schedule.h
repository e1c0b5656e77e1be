#pragma once

#include <cstdint>

#include "perceiver/train/recipe.h"

namespace perceiver::train {

/// Factor on the learning rate for the step after `step` finished ones, of `steps` in all.
/// Warm-up: (step + 1) / warmup_steps, then the kind over the remaining steps, from 1 at its first.
double schedule_factor(const ScheduleSpec& spec, int64_t step, int64_t steps);

}  // namespace perceiver::train
