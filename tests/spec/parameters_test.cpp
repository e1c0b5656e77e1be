#include "perceiver/spec/parameters.h"

#include <cmath>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/presets.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelSpec small_flow() {
  ModelSpec spec = preset("optical-flow-perceiver");
  spec.inputs[0].index_dims = {2, 6, 8};
  spec.inputs[0].position.max_resolution = {6, 8};
  spec.outputs[0].index_dims = {6, 8};
  spec.encoder.num_latents = 400;
  spec.encoder.latent_channels = 128;
  spec.encoder.num_self_attends_per_block = 2;
  return spec;
}

std::map<std::string, ParameterInfo> by_name(const ModelSpec& spec) {
  std::map<std::string, ParameterInfo> table;
  for (const ParameterInfo& info : parameter_table(spec)) {
    EXPECT_TRUE(table.emplace(info.name, info).second) << info.name << " twice";
  }
  return table;
}

TEST(ParameterTable, NamesAndShapesOfTheFlowModel) {
  const auto table = by_name(preset("optical-flow-perceiver"));
  EXPECT_THAT(table.at("latents").shape, ElementsAre(2048, 512));
  EXPECT_THAT(table.at("inputs.inputs.stem.weight").shape, ElementsAre(64, 54));
  EXPECT_THAT(table.at("encoder.cross_attend.0.query.weight").shape, ElementsAre(322, 512));
  EXPECT_THAT(table.at("encoder.block.0.23.mlp_in.weight").shape, ElementsAre(512, 512));
  EXPECT_THAT(table.at("decoder.cross_attend.norm_inputs.bias").shape, ElementsAre(512));
  EXPECT_THAT(table.at("decoder.final.weight").shape, ElementsAre(2, 322));
  EXPECT_EQ(table.at("decoder.final.weight").init, Init::kZerosByDesign);
  EXPECT_FALSE(table.contains("encoder.block.0.0.norm_inputs.weight"));
  EXPECT_FALSE(table.contains("encoder.block.0.24.query.weight"));
}

TEST(ParameterTable, RunningStatisticsAreNotTrainable) {
  const auto table = by_name(preset("vision-perceiver-conv"));
  const ParameterInfo& counter = table.at("inputs.inputs.batch_norm.0.num_batches_tracked");
  EXPECT_EQ(counter.dtype, DType::kI64);
  EXPECT_TRUE(counter.shape.empty());
  EXPECT_FALSE(counter.trainable);
  EXPECT_FALSE(table.at("inputs.inputs.batch_norm.0.running_var").trainable);
  EXPECT_TRUE(table.at("inputs.inputs.batch_norm.0.weight").trainable);
  EXPECT_THAT(table.at("inputs.inputs.conv.0.weight").shape, ElementsAre(64, 3, 7, 7));
  EXPECT_EQ(table.at("inputs.inputs.conv.0.weight").fan_in, 147);
}

TEST(ParameterTable, HeadsHaveTheirTensors) {
  const auto glue = by_name(preset("glue-multitask"));
  EXPECT_THAT(glue.at("outputs.mnli.head.0.weight").shape, ElementsAre(768, 768));
  EXPECT_THAT(glue.at("outputs.mnli.head.1.weight").shape, ElementsAre(3, 768));
  EXPECT_THAT(glue.at("outputs.stsb.query.table").shape, ElementsAre(1, 768));
  const auto language = by_name(preset("language-perceiver"));
  EXPECT_THAT(language.at("outputs.logits.head.bias").shape, ElementsAre(262));
  EXPECT_FALSE(language.contains("outputs.logits.head.weight"));
  EXPECT_FALSE(language.contains("decoder.final.weight"));

  ModelSpec upsampled = small_flow();
  upsampled.decoder.output_channels = 5;
  upsampled.outputs[0].head = HeadKind::kConvUpsample;
  upsampled.outputs[0].head_channels = 3;
  upsampled.outputs[0].head_factors = {4, 4};
  const auto conv = by_name(upsampled);
  EXPECT_THAT(conv.at("outputs.logits.head.0.weight").shape, ElementsAre(5, 6, 4, 4));
  EXPECT_THAT(conv.at("outputs.logits.head.1.weight").shape, ElementsAre(6, 3, 4, 4));
  EXPECT_FALSE(conv.contains("outputs.logits.head.2.weight"));
}

TEST(CheckParameters, AcceptsWhatInitialisationMakes) {
  const ModelSpec spec = small_flow();
  const ArrayMap tensors = random_parameters(spec, InitScheme::kDeepMind, 1);
  EXPECT_NO_THROW(check_parameters(spec, tensors, "here"));
}

TEST(CheckParameters, ListsMissingSurplusAndMisshapenInOneLine) {
  const ModelSpec spec = small_flow();
  ArrayMap tensors = random_parameters(spec, InitScheme::kDeepMind, 1);
  tensors.erase("latents");
  tensors["extra\n"] = Array::zeros(DType::kF32, {2});
  tensors["decoder.final.bias"] = Array::zeros(DType::kF32, {3});
  tensors["decoder.final.weight"] = Array::zeros(DType::kI64, {2, 322});
  try {
    check_parameters(spec, tensors, "model.safetensors");
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_THAT(message, HasSubstr("model.safetensors: "));
    EXPECT_THAT(message, HasSubstr("missing: latents [400, 128]"));
    EXPECT_THAT(message, HasSubstr("surplus: extra"));
    EXPECT_THAT(message, HasSubstr("decoder.final.bias is [3], needs [2]"));
    EXPECT_THAT(message, HasSubstr("decoder.final.weight has dtype I64, needs F32"));
    EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
  }
}

TEST(CheckParameters, LongListsAreCut) {
  try {
    check_parameters(small_flow(), {}, "empty");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr(cat("and ", parameter_table(small_flow()).size() - 8, " more")));
  }
}

struct Moments {
  double deviation = 0, largest = 0, mean = 0;
};

Moments moments(const Array& array) {
  Moments result;
  const float* data = array.data<float>();
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < array.numel(); ++i) {
    const double value = static_cast<double>(data[i]);
    sum += value;
    squares += value * value;
    result.largest = std::max(result.largest, std::fabs(value));
  }
  const double n = static_cast<double>(array.numel());
  result.mean = sum / n;
  result.deviation = std::sqrt(squares / n - result.mean * result.mean);
  return result;
}

TEST(RandomParameters, DeepMindSchemeHasTheMeasuredSpreads) {
  const ModelSpec spec = small_flow();
  const ArrayMap tensors = random_parameters(spec, InitScheme::kDeepMind, 7);
  const Moments latents = moments(tensors.at("latents"));
  EXPECT_NEAR(latents.deviation, 0.0176, 0.0002);
  EXPECT_LE(latents.largest, 0.04);
  EXPECT_NEAR(latents.mean, 0, 0.0005);
  const Moments query = moments(tensors.at("encoder.cross_attend.0.key.weight"));
  EXPECT_NEAR(query.deviation * std::sqrt(322.0), 1.0, 0.01);
  EXPECT_LE(query.largest * std::sqrt(322.0), 2.2738);
  const Moments stem = moments(tensors.at("inputs.inputs.stem.weight"));
  EXPECT_NEAR(stem.deviation * std::sqrt(54.0), 0.88, 0.02);
  EXPECT_EQ(moments(tensors.at("decoder.final.weight")).largest, 0);
  EXPECT_EQ(moments(tensors.at("encoder.cross_attend.0.key.bias")).largest, 0);
  EXPECT_EQ(moments(tensors.at("decoder.cross_attend.norm_mlp.weight")).mean, 1);
}

TEST(RandomParameters, TransformersSchemeIsNormalWithTheGivenSpread) {
  const ArrayMap tensors = random_parameters(small_flow(), InitScheme::kTransformers, 7, 0.05);
  for (const char* name : {"latents", "encoder.cross_attend.0.key.weight"}) {
    const Moments drawn = moments(tensors.at(name));
    EXPECT_NEAR(drawn.deviation, 0.05, 0.0005) << name;
    EXPECT_GT(drawn.largest, 0.16) << name;  // not cut
  }
  EXPECT_GT(moments(tensors.at("decoder.final.weight")).largest, 0);
}

// The bits are a promise: the same seed gives the same model on every machine.
TEST(RandomParameters, BitsAreFixed) {
  const ArrayMap tensors = random_parameters(small_flow(), InitScheme::kDeepMind, 42);
  uint64_t hash = 1469598103934665603u;  // FNV-1a over every byte, in name order
  for (const auto& [name, tensor] : tensors) {
    for (int64_t i = 0; i < tensor.nbytes(); ++i) {
      hash = (hash ^ static_cast<uint64_t>(tensor.bytes()[i])) * 1099511628211u;
    }
  }
  EXPECT_EQ(hash, 6531526518999764946u);
}

TEST(RandomParameters, SeedAndNameDecideTheValues) {
  const ModelSpec spec = small_flow();
  const auto first = [&](uint64_t seed, const char* name) {
    return random_parameters(spec, InitScheme::kDeepMind, seed).at(name).data<float>()[0];
  };
  EXPECT_EQ(first(1, "latents"), first(1, "latents"));
  EXPECT_NE(first(1, "latents"), first(2, "latents"));
  EXPECT_NE(first(1, "encoder.block.0.0.key.weight"), first(1, "encoder.block.0.1.key.weight"));
}

}  // namespace
}  // namespace perceiver
