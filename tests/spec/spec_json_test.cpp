#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(SpecJson, EveryPresetSurvivesTheRoundTrip) {
  for (const PresetInfo& info : preset_list()) {
    SCOPED_TRACE(info.name);
    const Json written = spec_to_json(preset(info.name));
    const ModelSpec read = spec_from_json(parse_json(written.dump(), "text"), "text");
    EXPECT_EQ(spec_to_json(read), written);
  }
}

TEST(SpecJson, FieldsAwayFromTheirDefaultsAreKept) {
  ModelSpec spec = preset("multimodal-perceiver");
  spec.encoder.share_blocks = false;
  spec.encoder.share_first_cross_attend = true;
  spec.encoder.cross_placement = CrossPlacement::kAtStart;
  spec.encoder.cross_attend.shape_for_attention = ShapeForAttention::kQueries;
  spec.encoder.cross_attend.use_query_residual = false;
  spec.decoder.cross_attend.use_query_residual = true;
  spec.inputs[0].position.sine_only = true;
  spec.inputs[0].position.concat_pos = false;
  spec.inputs[1].position.num_extra_linears = 2;
  spec.compatibility.layer_norm_eps = 1e-6;
  spec.compatibility.activation = Activation::kSilu;
  spec.outputs[2].divide_by = 0.1;
  const ModelSpec read = spec_from_json(spec_to_json(spec), "text");
  EXPECT_EQ(spec_to_json(read), spec_to_json(spec));
  EXPECT_FALSE(read.encoder.share_blocks);
  EXPECT_TRUE(read.encoder.share_first_cross_attend);
  EXPECT_EQ(read.encoder.cross_placement, CrossPlacement::kAtStart);
  EXPECT_EQ(read.encoder.cross_attend.shape_for_attention, ShapeForAttention::kQueries);
  EXPECT_FALSE(read.encoder.cross_attend.use_query_residual);
  EXPECT_TRUE(read.decoder.cross_attend.use_query_residual);
  EXPECT_TRUE(read.inputs[0].position.sine_only);
  EXPECT_FALSE(read.inputs[0].position.concat_pos);
  EXPECT_EQ(read.inputs[1].position.num_extra_linears, 2);
  EXPECT_EQ(read.compatibility.layer_norm_eps, 1e-6);
  EXPECT_EQ(read.compatibility.activation, Activation::kSilu);
  EXPECT_EQ(read.outputs[2].divide_by, 0.1);
}

TEST(SpecJson, OnlyFieldsAwayFromTheirDefaultsAreWritten) {
  const Json json = spec_to_json(preset("vision-perceiver-fourier"));
  EXPECT_FALSE(json.contains("labels"));
  EXPECT_FALSE(json["inputs"][0].contains("kind"));
  EXPECT_FALSE(json["encoder"].contains("share_blocks"));
  EXPECT_TRUE(json["decoder"]["cross_attend"]["use_query_residual"].get<bool>());
}

TEST(SpecJson, ShippedExampleIsThePreset) {
  const Json file = read_json(PERCEIVER_SOURCE_DIR "/examples/specs/timeseries.json");
  const ModelSpec spec = spec_from_json(file, "timeseries.json");
  EXPECT_EQ(spec_to_json(spec), spec_to_json(preset("timeseries")));
}

struct BadFile {
  const char* pointer;
  const char* value;
  const char* message;
};

class BadSpecFile : public testing::TestWithParam<BadFile> {};

TEST_P(BadSpecFile, IsRefusedByNameAndPlace) {
  Json json = spec_to_json(preset("vision-perceiver-fourier"));
  json[Json::json_pointer(GetParam().pointer)] = Json::parse(GetParam().value);
  try {
    spec_from_json(json, "my.json");
    FAIL() << "accepted, expected: " << GetParam().message;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("my.json: "));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

const BadFile kBadFiles[] = {
    {"/encoder/num_latent", "5",
     "unknown key 'encoder.num_latent', nearest known is 'encoder.num_latents'"},
    {"/inputs/0/position/bands", "5", "unknown key 'inputs[0].position.bands'"},
    {"/encoder/num_latents", "5.0", "encoder.num_latents must be an integer"},
    {"/encoder/num_latents", "-1", "encoder.num_latents must be an integer that is not negative"},
    {"/encoder/num_latents", "18446744073709551615", "must be an integer"},
    {"/encoder/num_latents", "1099511627776", "num_latents (1099511627776) must be between"},
    {"/encoder/num_latents", "\"many\"", "must be an integer that is not negative, is \"many\""},
    {"/inputs/0/index_dims", "[224, \"x\"]", "inputs[0].index_dims[1] must be an integer"},
    {"/inputs/0/index_dims", "224", "inputs[0].index_dims must be a list of integers"},
    {"/inputs/0/stem", "\"pixel\"",
     "inputs[0].stem must be one of pixels, linear, conv1x1, conv, patches, is \"pixel\""},
    {"/pad_inputs", "1", "pad_inputs must be true or false"},
    {"/inputs", "{}", "inputs must be a list, is object"},
    {"/encoder", "[]", "encoder must be a JSON object, is array"},
    {"/labels", "[1]", "labels[0] must be a string"},
    {"/compatibility/dropout", "\"no\"", "compatibility.dropout must be a number"},
    {"/outputs/0/divide_by", "0", "divide_by (0) must be finite and not 0"},
};

INSTANTIATE_TEST_SUITE_P(Files, BadSpecFile, testing::ValuesIn(kBadFiles));

}  // namespace
}  // namespace perceiver
