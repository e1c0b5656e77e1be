#include "perceiver/spec/presets.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"

namespace perceiver {
namespace {

// Millions with one decimal, as the papers print them.
double millions(const ModelSpec& spec) {
  return std::round(static_cast<double>(parameter_count(spec)) / 1e5) / 10;
}

TEST(Presets, ReleasedModelsHaveTheirExactParameterCounts) {
  EXPECT_EQ(parameter_count(preset("language-perceiver")), 201'108'230);
  EXPECT_EQ(parameter_count(preset("vision-perceiver-learned")), 62'255'848);
  EXPECT_EQ(parameter_count(preset("vision-perceiver-fourier")), 48'440'627);
  EXPECT_EQ(parameter_count(preset("vision-perceiver-conv")), 48'646'522);
  EXPECT_EQ(parameter_count(preset("optical-flow-perceiver")), 41'057'134);
  EXPECT_EQ(parameter_count(preset("multimodal-perceiver")), 19'858'855);
}

TEST(Presets, ReleasedModelsHaveTheirTensorCounts) {
  EXPECT_EQ(parameter_table(preset("language-perceiver")).size(), 457u);
  EXPECT_EQ(parameter_table(preset("vision-perceiver-learned")).size(), 141u);
  EXPECT_EQ(parameter_table(preset("vision-perceiver-fourier")).size(), 136u);
  EXPECT_EQ(parameter_table(preset("vision-perceiver-conv")).size(), 142u);
  EXPECT_EQ(parameter_table(preset("optical-flow-perceiver")).size(), 425u);
  EXPECT_EQ(parameter_table(preset("multimodal-perceiver")).size(), 183u);
}

TEST(Presets, PaperModelsRoundToThePrintedCounts) {
  ModelSpec original = preset("perceiver-imagenet");
  EXPECT_DOUBLE_EQ(millions(original), 44.9);
  original.encoder.share_blocks = false;
  original.encoder.share_later_cross_attends = false;
  EXPECT_DOUBLE_EQ(millions(original), 326.2);
  EXPECT_DOUBLE_EQ(millions(preset("perceiver-io-audioset")), 24.9);  // printed: 25.0
}

TEST(Presets, AudioSetCountOfTheSecondPaperIsOneCrossAttendAndTwelveLayers) {
  ModelSpec retrained = preset("perceiver-audioset");
  retrained.encoder.num_cross_attends = 1;
  retrained.encoder.num_blocks = 1;
  retrained.encoder.num_self_attends_per_block = 12;
  EXPECT_DOUBLE_EQ(millions(retrained), 21.0);
}

struct Sizes {
  const char* name;
  int64_t inputs, input_channels, outputs, query_channels;
};

TEST(Presets, TokensAndQueriesHaveTheDocumentedSizes) {
  const Sizes expected[] = {
      {"language-perceiver", 2048, 768, 2048, 768},
      {"vision-perceiver-learned", 50176, 512, 1, 1024},
      {"vision-perceiver-fourier", 50176, 261, 1, 1024},
      {"vision-perceiver-conv", 3025, 322, 1, 1024},
      {"optical-flow-perceiver", 182528, 322, 182528, 322},
      {"multimodal-perceiver", 52097, 704, 804737, 1026},
      {"perceiver-imagenet", 50176, 261, 1, 0},
      {"perceiver-imagenet-permuted", 50176, 131, 1, 0},
      {"perceiver-io-audioset", 13024, 487, 1, 1024},
      {"modelnet40", 2048, 387, 1, 0},
      {"starcraft2-entities", 512, 128, 512, 128},
      {"glue-multitask", 2048, 768, 8, 768},
  };
  for (const Sizes& sizes : expected) {
    SCOPED_TRACE(sizes.name);
    const ModelShape shape = resolve(preset(sizes.name));
    EXPECT_EQ(shape.num_inputs, sizes.inputs);
    EXPECT_EQ(shape.input_channels, sizes.input_channels);
    EXPECT_EQ(shape.num_outputs, sizes.outputs);
    EXPECT_EQ(shape.query_channels, sizes.query_channels);
  }
}

TEST(Presets, EveryListedPresetIsValidAndKeepsItsName) {
  ASSERT_GE(preset_list().size(), 15u);
  for (const PresetInfo& info : preset_list()) {
    SCOPED_TRACE(info.name);
    EXPECT_FALSE(info.summary.empty());
    const ModelSpec spec = preset(info.name);
    EXPECT_EQ(spec.name, info.name);
    EXPECT_NO_THROW(validate(spec));
  }
}

TEST(Presets, MisspeltNameGetsTheNearestOne) {
  try {
    preset("modlenet40");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_THAT(error.what(), testing::HasSubstr("the nearest is 'modelnet40'"));
  }
}

}  // namespace
}  // namespace perceiver
