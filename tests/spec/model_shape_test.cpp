#include "perceiver/spec/model_shape.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelSpec conv_model(int64_t height, int64_t width, ConvPadding padding, int64_t layers) {
  ModelSpec spec = preset("vision-perceiver-conv");
  spec.inputs[0].index_dims = {height, width};
  spec.inputs[0].num_conv_layers = layers;
  spec.compatibility.conv_padding = padding;
  return spec;
}

TEST(ModelShape, ConvStemGridFollowsThePadding) {
  const auto grid = [](int64_t h, int64_t w, ConvPadding padding, int64_t layers = 1) {
    return resolve(conv_model(h, w, padding, layers)).inputs[0].index_dims;
  };
  EXPECT_THAT(grid(224, 224, ConvPadding::kSame), ElementsAre(56, 56));
  EXPECT_THAT(grid(224, 224, ConvPadding::kTransformers), ElementsAre(55, 55));
  EXPECT_THAT(grid(32, 28, ConvPadding::kTransformers), ElementsAre(7, 6));
  EXPECT_THAT(grid(33, 27, ConvPadding::kTransformers), ElementsAre(8, 6));
  EXPECT_THAT(grid(33, 27, ConvPadding::kSame), ElementsAre(9, 7));
  EXPECT_THAT(grid(224, 224, ConvPadding::kSame, 2), ElementsAre(14, 14));
}

TEST(ModelShape, FramesStackedIntoOneTokenLeaveAPlane) {
  EXPECT_THAT(resolve(preset("optical-flow-perceiver")).inputs[0].index_dims,
              ElementsAre(368, 496));
}

TEST(ModelShape, SingleFrameVideoKeepsItsTimeAxis) {
  ModelSpec spec = preset("multimodal-perceiver");
  spec.inputs[1].index_dims = {1, 224, 224};
  EXPECT_THAT(resolve(spec).inputs[1].index_dims, ElementsAre(1, 56, 56));
}

TEST(ModelShape, StridedPixelsRoundUp) {
  ModelSpec spec = preset("vision-perceiver-fourier");
  spec.inputs[0].index_dims = {9, 8};
  spec.inputs[0].downsample = {2, 2};
  EXPECT_THAT(resolve(spec).inputs[0].index_dims, ElementsAre(5, 4));
}

TEST(ModelShape, ModalitiesAndQueriesArePaddedInNameOrder) {
  ModelSpec spec = preset("multimodal-perceiver");
  std::swap(spec.inputs[0], spec.inputs[2]);
  std::swap(spec.outputs[0], spec.outputs[1]);
  const ModelShape shape = resolve(spec);
  EXPECT_THAT(
      (std::vector<std::string>{shape.inputs[0].name, shape.inputs[1].name, shape.inputs[2].name}),
      ElementsAre("audio", "image", "label"));
  EXPECT_EQ(shape.inputs[0].padding_channels, 303);
  EXPECT_EQ(shape.inputs[1].padding_channels, 461);
  EXPECT_EQ(shape.inputs[2].padding_channels, 4);
  EXPECT_EQ(shape.outputs[0].padding_channels, 641);
  EXPECT_EQ(shape.outputs[1].padding_channels, 831);
  EXPECT_EQ(shape.outputs[2].padding_channels, 2);
}

TEST(ModelShape, AttentionWidthsFollowTheDefaults) {
  const ModelShape fourier = resolve(preset("vision-perceiver-fourier"));
  EXPECT_EQ(fourier.encoder_cross.qk_channels, 261);
  EXPECT_EQ(fourier.encoder_cross.v_channels, 261);
  EXPECT_EQ(fourier.encoder_cross.output_channels, 1024);
  EXPECT_EQ(fourier.self.qk_channels, 1024);
  EXPECT_TRUE(fourier.self.self);
  EXPECT_EQ(fourier.decoder_cross.qk_channels, 1024);
  EXPECT_TRUE(fourier.decoder_cross.use_query_residual);
  const ModelShape language = resolve(preset("language-perceiver"));
  EXPECT_EQ(language.encoder_cross.qk_channels, 256);
  EXPECT_EQ(language.encoder_cross.v_channels, 1280);
  EXPECT_EQ(language.decoder_cross.v_channels, 768);
  EXPECT_FALSE(language.decoder_cross.use_query_residual);
}

TEST(ModelShape, ShapeForAttentionQueriesTakesTheQueryWidth) {
  ModelSpec spec = preset("vision-perceiver-fourier");
  spec.encoder.cross_attend.shape_for_attention = ShapeForAttention::kQueries;
  EXPECT_EQ(resolve(spec).encoder_cross.qk_channels, 1024);
}

std::vector<std::string> steps(const EncoderSpec& encoder) {
  std::vector<std::string> list;
  for (const EncoderStep& step : encoder_steps(encoder)) {
    list.push_back((step.cross ? "c" : "b") + std::to_string(step.weight_set));
  }
  return list;
}

TEST(EncoderSteps, InterleavesAndSharesAsTheOriginalPerceiver) {
  EncoderSpec encoder;
  encoder.num_blocks = 3;
  encoder.num_cross_attends = 3;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "b0", "c1", "b0", "c1", "b0"));
  encoder.num_cross_attends = 2;
  encoder.share_blocks = false;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "b0", "c1", "b1", "b2"));
}

TEST(EncoderSteps, HonoursEverySwitch) {
  EncoderSpec encoder;
  encoder.num_blocks = 2;
  encoder.num_cross_attends = 3;
  encoder.cross_placement = CrossPlacement::kAtStart;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "c1", "c1", "b0", "b0"));
  encoder.share_first_cross_attend = true;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "c0", "c0", "b0", "b0"));
  encoder.share_later_cross_attends = false;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "c0", "c1", "b0", "b0"));
  encoder.share_first_cross_attend = false;
  EXPECT_THAT(steps(encoder), ElementsAre("c0", "c1", "c2", "b0", "b0"));
}

struct BadSpec {
  const char* preset_name;
  std::function<void(ModelSpec&)> spoil;
  const char* message;
};

class Validate : public testing::TestWithParam<BadSpec> {};

TEST_P(Validate, NamesPlaceFieldAndValues) {
  ModelSpec spec = preset(GetParam().preset_name);
  GetParam().spoil(spec);
  try {
    validate(spec);
    FAIL() << "accepted, expected: " << GetParam().message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
    EXPECT_THAT(error.what(), testing::Not(HasSubstr("\n")));
  }
}

const BadSpec kBadSpecs[] = {
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.encoder.self_attend.num_heads = 3; },
     "[encoder.self_attend] qk_channels (1024) must be divisible by num_heads (3)"},
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.encoder.self_attend.v_channels = 512; },
     "v_channels (512) must equal latent_channels (1024)"},
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.encoder.num_latents = 0; },
     "[encoder] num_latents (0) must be between"},
    {"vision-perceiver-fourier",
     [](ModelSpec& s) {
       s.inputs[0].index_dims = {224, 0};
     },
     "[input inputs] index_dims [224, 0]"},
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.inputs[0].position.max_resolution = {224}; },
     "max_resolution [224] must have one entry per position axis, of which there are 2"},
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.outputs[0].index_dims = {2}; },
     "[output logits] single_row with 2 rows"},
    {"vision-perceiver-fourier",
     [](ModelSpec& s) {
       s.labels = {"cat", "dog"};
     },
     "2 labels, but no output has as many channels"},
    {"vision-perceiver-fourier", [](ModelSpec& s) { s.inputs[0].name = "a.b"; }, "name 'a.b'"},
    {"vision-perceiver-fourier",
     [](ModelSpec& s) {
       s.inputs[0].index_dims = {1 << 30, 1 << 30};
     },
     "more than 2^40 elements"},
    {"vision-perceiver-learned",
     [](ModelSpec& s) {
       s.inputs[0].position.use = PositionUse::kAdd;
       s.inputs[0].position.project_channels = 6;
     },
     "position channels (6) must equal the content channels (256) to be added"},
    {"vision-perceiver-learned",
     [](ModelSpec& s) {
       s.inputs[0].index_dims = {1 << 19, 1 << 19};
     },
     "more than 2^40"},
    {"vision-perceiver-conv",
     [](ModelSpec& s) {
       s.inputs[0].index_dims = {4, 224};
     },
     "extent 4 is too small"},
    {"optical-flow-perceiver",
     [](ModelSpec& s) {
       s.inputs[0].downsample = {2, 3, 1};
     },
     "must be divisible by the patch extents downsample [2, 3, 1]"},
    {"optical-flow-perceiver", [](ModelSpec& s) { s.outputs[0].of_input = "frames"; },
     "of_input 'frames' must name one of the inputs"},
    {"optical-flow-perceiver",
     [](ModelSpec& s) {
       s.outputs[0].index_dims = {368, 495};
     },
     "has 182160 rows, but input inputs has 182528 tokens"},
    {"multimodal-perceiver", [](ModelSpec& s) { s.pad_inputs = false; },
     "set pad_inputs to bring them to one width"},
    {"multimodal-perceiver", [](ModelSpec& s) { s.decoder.pad_queries = false; },
     "set pad_queries to bring them to one width"},
    {"multimodal-perceiver", [](ModelSpec& s) { s.inputs[1].name = "audio"; },
     "two inputs are named 'audio'"},
    {"language-perceiver", [](ModelSpec& s) { s.outputs[0].channels = 760; },
     "decoded rows have 760 channels, the tied embedding of input inputs has 768"},
    {"perceiver-imagenet", [](ModelSpec& s) { s.encoder.num_cross_attends = 9; },
     "num_cross_attends (9) must be at most num_blocks (8)"},
    {"modelnet40", [](ModelSpec& s) { s.inputs[0].position.max_resolution.clear(); },
     "max_resolution is required"},
};

INSTANTIATE_TEST_SUITE_P(BadSpecs, Validate, testing::ValuesIn(kBadSpecs));

}  // namespace
}  // namespace perceiver
