#pragma once

#include <cstdint>

#include "perceiver/train/recipe.h"

namespace perceiver::train {

/// Factor on the learning rate for the step after `step` finished ones.
/// Warm-up: (step + 1) / warmup_steps, then the kind over the rest of spec.steps, from 1 at its
/// first.
double schedule_factor(const ScheduleSpec& spec, int64_t step);

}  // namespace perceiver::train
