#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace perceiver::train {
namespace {

// From 1 at 0 to `end` at 1.
double half_cosine(double progress, double end) {
  return end + (1 - end) * 0.5 * (1 + std::cos(std::numbers::pi * std::clamp(progress, 0.0, 1.0)));
}

}  // namespace

double schedule_factor(const ScheduleSpec& spec, int64_t step) {
  if (step < spec.warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(spec.warmup_steps);
  }
  if (spec.kind == ScheduleKind::kSteps) {
    const auto passed = std::upper_bound(spec.milestones.begin(), spec.milestones.end(), step) -
                        spec.milestones.begin();
    return std::pow(spec.step_factor, static_cast<double>(passed));
  }
  const auto rest = static_cast<double>(std::max<int64_t>(1, spec.steps - spec.warmup_steps));
  const double progress = static_cast<double>(step - spec.warmup_steps) / rest;
  switch (spec.kind) {
    case ScheduleKind::kConstant:
      return 1;
    case ScheduleKind::kCosine:
      return half_cosine(progress, spec.end_fraction);
    case ScheduleKind::kConstantCosine:
    case ScheduleKind::kSteps:
      break;
  }
  const double falling = 1 - spec.constant_fraction;
  return falling <= 0
             ? 1
             : half_cosine((progress - spec.constant_fraction) / falling, spec.end_fraction);
}

}  // namespace perceiver::train
