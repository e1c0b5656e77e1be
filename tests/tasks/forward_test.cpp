#include "perceiver/tasks/forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/spec/presets.h"
#include "tasks/series_spec.h"

namespace perceiver::tasks {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string message_of(const ModelSpec& spec, const ArrayMap& tensors) {
  try {
    forward_call(spec, tensors);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ForwardCall, PutsThePicturesChannelsLast) {
  const ModelSpec spec = preset("vision-perceiver-fourier");
  Array picture = Array::zeros(DType::kF32, {1, 3, 224, 224});
  float* value = picture.mutable_data<float>();
  for (int64_t i = 0; i < picture.numel(); ++i) {
    value[i] = static_cast<float>(i);
  }
  const ForwardCall call = forward_call(spec, {{"inputs", picture}});
  const Array& given = call.inputs.arrays.begin()->second;
  ASSERT_THAT(given.shape(), ElementsAre(1, 224, 224, 3));
  // Row 5, column 7, channel 2 of the picture.
  EXPECT_EQ(given.data<float>()[(5 * 224 + 7) * 3 + 2],
            static_cast<float>(2 * 224 * 224 + 5 * 224 + 7));
}

TEST(ForwardCall, PutsTheFlowPatchesLast) {
  const ForwardCall call =
      forward_call(preset("optical-flow-perceiver"),
                   {{"inputs", Array::zeros(DType::kF16, {1, 2, 27, 368, 496})}});
  const Array& given = call.inputs.arrays.begin()->second;
  EXPECT_THAT(given.shape(), ElementsAre(1, 2, 368, 496, 27));
  EXPECT_EQ(given.dtype(), DType::kF32);
}

TEST(ForwardCall, MapsTheMultimodalNames) {
  const ArrayMap tensors{
      {"inputs.image", Array::zeros(DType::kF32, {1, 16, 3, 224, 224})},
      {"inputs.audio", Array::zeros(DType::kF32, {1, 30720, 1})},
      {"inputs.label", Array::zeros(DType::kF32, {1, 700})},
      {"subsampled_output_points.image", Array::of<int64_t>({3}, {802815, 0, 0})},
      {"subsampled_output_points.audio", Array::of<int64_t>({1}, {1919})}};
  const ForwardCall call = forward_call(preset("multimodal-perceiver"), tensors);
  EXPECT_THAT(call.inputs.arrays.at("image").shape(), ElementsAre(1, 16, 224, 224, 3));
  EXPECT_THAT(call.inputs.arrays.at("audio").shape(), ElementsAre(1, 30720, 1));
  EXPECT_THAT(call.request.points.at("image"), ElementsAre(802815, 0, 0));
  EXPECT_EQ(call.request.points.count("label"), 0U);
}

TEST(ForwardCall, TakesAttentionMasksOfAnyDtype) {
  const ModelSpec spec = preset("language-perceiver");
  const Array ids = Array::of<int64_t>({1, 3}, {4, 70, 0});
  const std::vector<Array> masks{Array::of<int64_t>({1, 3}, {1, 0, 1}),
                                 Array::of<float>({1, 3}, {1, 0, 1})};
  for (const Array& mask : masks) {
    const ForwardCall call = forward_call(spec, {{"inputs", ids}, {"attention_mask", mask}});
    const Array& given = call.inputs.masks.begin()->second;
    ASSERT_EQ(given.dtype(), DType::kBool);
    EXPECT_FALSE(given.data<bool>()[1]);
    EXPECT_TRUE(given.data<bool>()[2]);
  }
}

TEST(ForwardCall, DoesNotReadPaddingThatNobodyAttendsTo) {
  const ModelSpec spec = preset("language-perceiver");
  Array ids = Array::zeros(DType::kI64, {2, 2048});
  Array mask = Array::zeros(DType::kI64, {2, 2048});
  for (int64_t i = 0; i < 60; ++i) {
    ids.mutable_data<int64_t>()[i] = 70 + i;
    mask.mutable_data<int64_t>()[i] = 1;
    mask.mutable_data<int64_t>()[2048 + i] = 1;
  }
  ForwardCall call = forward_call(spec, {{"inputs", ids}, {"attention_mask", mask}});
  EXPECT_THAT(call.inputs.arrays.at("inputs").shape(), ElementsAre(2, 60));
  EXPECT_EQ(call.inputs.arrays.at("inputs").data<int64_t>()[59], 129);
  EXPECT_TRUE(call.inputs.masks.empty());
  EXPECT_EQ(call.request.points.at("logits").size(), 2048U);  // the answer keeps its shape

  mask.mutable_data<int64_t>()[2048 + 99] = 1;  // the second example is longer
  call = forward_call(spec, {{"inputs", ids}, {"attention_mask", mask}});
  EXPECT_THAT(call.inputs.arrays.at("inputs").shape(), ElementsAre(2, 100));
  EXPECT_THAT(call.inputs.masks.at("inputs").shape(), ElementsAre(2, 100));
  EXPECT_TRUE(call.inputs.masks.at("inputs").data<bool>()[100 + 99]);
  EXPECT_FALSE(call.inputs.masks.at("inputs").data<bool>()[99]);
}

TEST(ForwardCall, ReadsPaddingWhereItDecidesTheAnswer) {
  ModelSpec spec = preset("language-perceiver");
  Array ids = Array::zeros(DType::kI64, {1, 8});
  // Without a valid token the latents read the mean over every token.
  const Array none = Array::zeros(DType::kI64, {1, 8});
  ForwardCall call = forward_call(spec, {{"inputs", ids}, {"attention_mask", none}});
  EXPECT_THAT(call.inputs.arrays.at("inputs").shape(), ElementsAre(1, 8));
  // A model of one's own answers one row per token given.
  spec.architecture.clear();
  Array mask = none.clone();
  mask.mutable_data<int64_t>()[0] = 1;
  call = forward_call(spec, {{"inputs", ids}, {"mask.inputs", mask}});
  EXPECT_THAT(call.inputs.arrays.at("inputs").shape(), ElementsAre(1, 8));
}

TEST(ForwardCall, NamesTheTensorThatIsWrong) {
  const ModelSpec language = preset("language-perceiver");
  const Array ids = Array::of<int64_t>({1, 2}, {4, 5});
  EXPECT_THAT(message_of(language, {}),
              AllOf(HasSubstr("\"inputs\" is missing"), HasSubstr("2048")));
  EXPECT_THAT(message_of(language, {{"inputs", Array::of<int64_t>({1, 2}, {4, 262})}}),
              AllOf(HasSubstr("262 at [0, 1]"), HasSubstr("vocabulary")));
  EXPECT_THAT(message_of(language, {{"inputs", Array::zeros(DType::kI64, {1, 2049})}}),
              AllOf(HasSubstr("2049 tokens"), HasSubstr("2048")));
  EXPECT_THAT(message_of(language, {{"inputs", Array::zeros(DType::kF32, {1, 4})}}),
              AllOf(HasSubstr("\"inputs\""), HasSubstr("F32 [1, 4]")));
  EXPECT_THAT(message_of(language, {{"inputs", ids}, {"input_ids", ids}}),
              AllOf(HasSubstr("\"input_ids\""), HasSubstr("attention_mask")));
  EXPECT_THAT(message_of(language,
                         {{"inputs", ids}, {"attention_mask", Array::zeros(DType::kI64, {1, 3})}}),
              AllOf(HasSubstr("\"attention_mask\""), HasSubstr("3 columns for 2")));
  EXPECT_THAT(message_of(language,
                         {{"inputs", ids}, {"attention_mask", Array::of<int64_t>({1, 2}, {1, 2})}}),
              HasSubstr("only 0 and 1"));
  EXPECT_THAT(message_of(preset("vision-perceiver-conv"),
                         {{"inputs", Array::zeros(DType::kF32, {1, 224, 224, 3})}}),
              AllOf(HasSubstr("[B, 3, 224, 224]"), HasSubstr("[1, 224, 224, 3]")));
}

TEST(ForwardCall, RefusesPointsOutsideTheOutput) {
  const ArrayMap tensors{{"inputs", Array::zeros(DType::kF32, {1, 4, 2})},
                         {"points.state", Array::of<int64_t>({2}, {0, 6})}};
  EXPECT_THAT(message_of(series_spec(), tensors), AllOf(HasSubstr("index 6"), HasSubstr("6 rows")));
}

TEST(ForwardCall, ModelsOutsideTransformersKeepChannelsLast) {
  const Array series = Array::of<float>({1, 4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  for (const char* name : {"inputs", "inputs.sensor"}) {
    const ForwardCall call = forward_call(series_spec(), {{name, series}});
    EXPECT_EQ(call.inputs.arrays.at("sensor").data<float>()[1], 2.0F) << name;
  }
  EXPECT_THAT(message_of(series_spec(), {{"inputs", series}, {"inputs.sensor", series}}),
              HasSubstr("mean the same"));
}

TEST(NameOutputs, OneOutputIsLogitsSeveralCarryTheirName) {
  EXPECT_EQ(
      name_outputs(series_spec(), {{"state", Array::zeros(DType::kF32, {1})}}).count("logits"), 1U);
  const ArrayMap named = name_outputs(
      preset("multimodal-perceiver"),
      {{"audio", Array::zeros(DType::kF32, {1})}, {"label", Array::zeros(DType::kF32, {1})}});
  EXPECT_EQ(named.count("logits.audio"), 1U);
  EXPECT_EQ(named.count("logits.label"), 1U);
}

TEST(MemoryBudget, BoundsTheRowsOfABlock) {
  const ModelSpec spec = preset("multimodal-perceiver");
  const int64_t few = rows_for_budget(spec, 1, 64 << 20);
  EXPECT_GT(few, 100);
  EXPECT_LT(few, 804737);
  EXPECT_NEAR(static_cast<double>(rows_for_budget(spec, 2, 64 << 20)), static_cast<double>(few) / 2,
              1);
  EXPECT_EQ(rows_for_budget(spec, 1, 1), 1);
}

TEST(ParseBytes, UnderstandsTheUsualUnits) {
  EXPECT_EQ(parse_bytes("512MiB"), 512 << 20);
  EXPECT_EQ(parse_bytes("1.5GiB"), int64_t{1536} << 20);
  EXPECT_EQ(parse_bytes("2GB"), 2000000000);
  EXPECT_EQ(parse_bytes("4096"), 4096);
}

TEST(ParseBytes, RefusesEverythingElse) {
  for (const char* text : {"", "MiB", "-1", "0", "12 apples", "nan", "inf", "1e30GiB"}) {
    EXPECT_THROW(parse_bytes(text), Error) << text;
  }
}

}  // namespace
}  // namespace perceiver::tasks
