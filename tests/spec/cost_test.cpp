#include "perceiver/spec/cost.h"

#include <cmath>

#include <gtest/gtest.h>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

// Billions with one decimal, as the reference table prints them.
double billions(double flops) {
  return std::round(flops / 1e8) / 10;
}

constexpr double kPrinted = 0.053;  // a printed digit; two of the table were rounded twice

struct Row {
  const char* name;
  double preprocess, encode, process, decode, head;  // GFLOP at batch 1
};

TEST(TextbookCost, ReproducesTheFlopTableOfTheReleasedModels) {
  const Row rows[] = {
      {"language-perceiver", 0, 9.1, 101.2, 9.8, 0.8},
      {"vision-perceiver-learned", 6.7, 108.5, 360.8, 2.2, 0},
      {"vision-perceiver-fourier", 0, 43.2, 360.8, 2.2, 0},
      {"optical-flow-perceiver", 1.3, 560.7, 360.8, 964.0, 0},
      {"multimodal-perceiver", 0, 220.3, 29.8, 7217.9, 2.5},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const ModelCost cost = textbook_cost(preset(row.name));
    ASSERT_EQ(cost.stages.size(), 5u);
    EXPECT_NEAR(cost.stages[0].flops / 1e9, row.preprocess, kPrinted);
    EXPECT_NEAR(cost.stages[1].flops / 1e9, row.encode, kPrinted);
    EXPECT_NEAR(cost.stages[2].flops / 1e9, row.process, kPrinted);
    EXPECT_NEAR(cost.stages[3].flops / 1e9, row.decode, kPrinted);
    EXPECT_NEAR(cost.stages[4].flops / 1e9, row.head, kPrinted);
  }
}

TEST(TextbookCost, ConvModelWithFiftySixSquaredTokens) {
  ModelSpec spec = preset("vision-perceiver-conv");
  spec.compatibility.conv_padding = ConvPadding::kSame;
  const ModelCost cost = textbook_cost(spec);
  EXPECT_DOUBLE_EQ(billions(cost.stages[0].flops), 0.2);
  EXPECT_DOUBLE_EQ(billions(cost.stages[1].flops), 6.2);
  EXPECT_DOUBLE_EQ(billions(cost.flops), 369.4);
}

TEST(TextbookCost, OriginalPerceiverMeetsThePaper) {
  ModelSpec spec = preset("perceiver-imagenet");
  EXPECT_NEAR(textbook_cost(spec).flops, 706.0e9, 0.5e9);
  spec.encoder.num_cross_attends = 1;
  EXPECT_DOUBLE_EQ(billions(textbook_cost(spec).flops), 404.0);
}

TEST(TextbookCost, OneChunkOfTheVideoModel) {
  const ModelCost cost = textbook_cost(preset("multimodal-perceiver"), 6272 + 15 + 1);
  EXPECT_NEAR(cost.flops, 307e9, 0.5e9);
}

TEST(TextbookCost, ScoreMatricesAsIfMadeWhole) {
  const ModelCost flow = textbook_cost(preset("optical-flow-perceiver"));
  EXPECT_NEAR(flow.stages[1].score_bytes, 1.50e9, 0.01e9);
  EXPECT_NEAR(flow.stages[3].score_bytes, 1.50e9, 0.01e9);
  EXPECT_NEAR(textbook_cost(preset("language-perceiver")).stages[1].score_bytes, 17e6, 0.5e6);
}

TEST(TextbookCost, StagesHoldEveryParameter) {
  for (const PresetInfo& info : preset_list()) {
    SCOPED_TRACE(info.name);
    const ModelSpec spec = preset(info.name);
    EXPECT_EQ(textbook_cost(spec).parameters, parameter_count(spec));
  }
  const ModelCost cost = textbook_cost(preset("vision-perceiver-fourier"));
  EXPECT_EQ(cost.stages[0].parameters, 0);
  EXPECT_EQ(cost.stages[4].parameters, 0);
  EXPECT_EQ(cost.stages[2].parameters, 6 * 6'301'696 + 0);
}

}  // namespace
}  // namespace perceiver
