#pragma once

#include <cstdint>

#include "train/random.h"

namespace perceiver::train {

/// Generated series that change their state: stretches of an eighth to a third of the length, each
/// of one class. Class k has, in channel c, a wave of 6 (k + 1) + c mod 3 periods over the whole
/// length, with phase and strength of its own in every stretch, under noise.
struct SegmentsSpec {
  int64_t train_examples = 1 << 20;
  int64_t test_examples = 256;
  double noise = 0.3;
};

/// The fewest steps in which the fastest of so many classes can be told.
int64_t segments_minimum_steps(int64_t classes);

/// @param values  [steps, channels]   @param labels  [steps]
void draw_segments(const SegmentsSpec& spec, int64_t steps, int64_t channels, int64_t classes,
                   Random& random, float* values, int64_t* labels);

}  // namespace perceiver::train
