#include "perceiver/spec/memory.h"

#include <gtest/gtest.h>

#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

std::vector<StageMemory> memory_of(const ModelSpec& spec, const PlanRequest& request = {},
                                   int64_t budget = 0) {
  return estimate_memory(spec, plan_attentions(spec, request), request, budget);
}

const StageMemory& stage(const std::vector<StageMemory>& stages, const std::string& name) {
  for (const StageMemory& entry : stages) {
    if (entry.stage == name) {
      return entry;
    }
  }
  throw std::out_of_range(name);
}

TEST(Memory, WeightsAreEveryParameterOnce) {
  for (const PresetInfo& info : preset_list()) {
    const ModelSpec spec = preset(info.name);
    double weights = 0;
    for (const StageMemory& entry : memory_of(spec)) {
      weights += entry.weight_bytes;
    }
    EXPECT_EQ(weights, 4.0 * static_cast<double>(parameter_count(spec))) << info.name;
  }
}

// A score matrix of the flow model alone has 1.5 GB; its answers are 368 x 496 x 2 floats.
TEST(Memory, NoStageHoldsAScoreMatrixOrAllTokens) {
  const auto stages = memory_of(preset("optical-flow-perceiver"));
  EXPECT_LT(peak_bytes(stages), 300e6);
  EXPECT_GT(stage(stages, "decode").working_bytes, 4.0 * 368 * 496 * 2);
  EXPECT_DOUBLE_EQ(stage(stages, "preprocess").working_bytes, 4.0 * 2 * 368 * 496 * 27);
}

TEST(Memory, ABudgetBoundsTheBlocksAndFewerRowsTheAnswers) {
  const ModelSpec spec = preset("multimodal-perceiver");
  const double whole = stage(memory_of(spec), "encode").working_bytes;
  EXPECT_NEAR(whole - stage(memory_of(spec, {}, 1 << 20), "encode").working_bytes, 15 << 20, 1);
  PlanRequest some;
  some.num_outputs = 1000;
  EXPECT_LT(stage(memory_of(spec, some), "decode").working_bytes,
            stage(memory_of(spec), "decode").working_bytes);
}

}  // namespace
}  // namespace perceiver
