#include "perceiver/spec/cost.h"

#include <cmath>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
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

// One layer of two tokens of 3 channels, one head of 4, an MLP of 5, counted by hand: queries, keys
// and values 3 x 2*2*3*4, scores and mixing 2 x 2*2*2*4, output 2*2*4*3, MLP 2 x 2*2*3*5.
TEST(TransformerFlops, MeetAHandCount) {
  TransformerShape shape{.num_tokens = 2,
                         .input_channels = 0,
                         .channels = 3,
                         .num_layers = 1,
                         .num_heads = 1,
                         .head_channels = 4,
                         .mlp_channels = 5,
                         .output_channels = 0};
  EXPECT_EQ(transformer_flops(shape), 144 + 64 + 48 + 120);
  shape.num_layers = 2;
  shape.input_channels = 7;
  shape.output_channels = 6;
  EXPECT_EQ(transformer_flops(shape), 2 * (144 + 64 + 48 + 120) + 2 * 2 * 7 * 3 + 2 * 2 * 3 * 6);
  shape.num_heads = -1;
  EXPECT_THROW(transformer_flops(shape), Error);
}

TEST(TransformerFlops, MeetThePapersEntityEncoder) {
  EXPECT_DOUBLE_EQ(billions(transformer_flops({})), 3.3);
}

// The paper's Perceiver IO encoder of 512 entities, by hand: N = 32, D = 512, tokens of 128.
TEST(TextbookCost, EntityEncoderMeetsAHandCount) {
  const double stem = 2.0 * 512 * 256 * 128;
  const double read = 2.0 * 32 * 512 * 128 + 2 * (2.0 * 512 * 128 * 128) +
                      2 * (2.0 * 32 * 128 * 512) + 2.0 * 32 * 128 * 512 +
                      2 * (2.0 * 32 * 512 * 512);
  const double layer =
      4 * (2.0 * 32 * 512 * 512) + 2 * (2.0 * 32 * 32 * 512) + 2 * (2.0 * 32 * 512 * 512);
  const double decode = 2.0 * 512 * 128 * 512 + 2 * (2.0 * 32 * 512 * 512) +
                        2 * (2.0 * 512 * 512 * 32) + 2.0 * 512 * 512 * 128 +
                        2 * (2.0 * 512 * 128 * 128);
  const ModelCost cost = textbook_cost(preset("starcraft2-entities"));
  EXPECT_DOUBLE_EQ(cost.flops, stem + read + 3 * layer + decode);
  EXPECT_LT(cost.flops, transformer_flops({}) / 4);
}

}  // namespace
}  // namespace perceiver
