#include "train/schedule.h"

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

TEST(Schedule, WarmsUpLinearlyThenFallsAsACosine) {
  ScheduleSpec spec;
  spec.kind = ScheduleKind::kCosine;
  spec.steps = 104;
  spec.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 0), 0.25);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 3), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 4), 1);
  EXPECT_NEAR(schedule_factor(spec, 54), 0.5, 1e-12);
  EXPECT_NEAR(schedule_factor(spec, 29), 0.8535533905932737, 1e-12);
  EXPECT_NEAR(schedule_factor(spec, 104), 0, 1e-12);
}

TEST(Schedule, CosineEndsAtItsEndFraction) {
  ScheduleSpec spec;
  spec.steps = 100;
  spec.end_fraction = 0.1;
  EXPECT_NEAR(schedule_factor(spec, 50), 0.55, 1e-12);
  EXPECT_NEAR(schedule_factor(spec, 100), 0.1, 1e-12);
}

TEST(Schedule, ConstantCosineHoldsThenFalls) {
  ScheduleSpec spec;
  spec.kind = ScheduleKind::kConstantCosine;
  spec.steps = 100;
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 0), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 49), 1);
  EXPECT_NEAR(schedule_factor(spec, 75), 0.5, 1e-12);
  EXPECT_NEAR(schedule_factor(spec, 100), 0, 1e-12);
  spec.constant_fraction = 1;
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 99), 1);
}

TEST(Schedule, ConstantStaysAtOneEvenWhenAllStepsWarmUp) {
  ScheduleSpec spec;
  spec.kind = ScheduleKind::kConstant;
  spec.steps = 10;
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 7), 1);
  spec.warmup_steps = 10;
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 9), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 10), 1);
}

TEST(Schedule, StepsFallAtEachMilestone) {
  ScheduleSpec spec;
  spec.kind = ScheduleKind::kSteps;
  spec.steps = 100;
  spec.milestones = {10, 20};
  spec.step_factor = 0.1;
  EXPECT_EQ(schedule_factor(spec, 9), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 10), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 19), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(spec, 20), 0.01);
}

}  // namespace
}  // namespace perceiver::train
