#include "train/data/segments.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace perceiver::train {

// Two steps a period, and a stretch of at least one step.
int64_t segments_minimum_steps(int64_t classes) {
  return 2 * (6 * classes + 2);
}

void draw_segments(const SegmentsSpec& spec, int64_t steps, int64_t channels, int64_t classes,
                   Random& random, float* values, int64_t* labels) {
  constexpr double kTurn = 2 * std::numbers::pi;
  for (int64_t begin = 0; begin < steps;) {
    const int64_t length = steps / 8 + random.below(steps / 3 - steps / 8 + 1);
    const int64_t end = std::min(steps, begin + length);
    const int64_t label = random.below(classes);
    std::fill(labels + begin, labels + end, label);
    for (int64_t channel = 0; channel < channels; ++channel) {
      const auto periods = static_cast<double>(6 * (label + 1) + channel % 3);
      const double phase = random.uniform(0, kTurn);
      const double strength = random.uniform(0.7, 1.3);
      for (int64_t t = begin; t < end; ++t) {
        const double x = static_cast<double>(t) / static_cast<double>(steps);
        const double wave = strength * std::sin(kTurn * periods * x + phase);
        values[t * channels + channel] =
            static_cast<float>(wave + random.uniform(-spec.noise, spec.noise));
      }
    }
    begin = end;
  }
}

}  // namespace perceiver::train
