#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include "perceiver/nn/engine.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/haiku.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tasks/forward.h"
#include "support/compare.h"

// The numbered quirks of docs/quirks.md that need no recording: what a switch does, not only that
// it exists.

namespace perceiver::parity {
namespace {

ModelSpec tiny(const char* architecture, const Json& more = Json::object()) {
  Json config = {{"model_type", "perceiver"},
                 {"architectures", {architecture}},
                 {"num_latents", 4},
                 {"d_latents", 16},
                 {"d_model", 8},
                 {"num_blocks", 1},
                 {"num_self_attends_per_block", 1},
                 {"num_self_attention_heads", 2},
                 {"num_cross_attention_heads", 1},
                 {"max_position_embeddings", 10},
                 {"num_labels", 3},
                 {"image_size", 4}};
  config.update(more);
  return config_from_hugging_face(config, "test").spec;
}

ModelSpec language(const Json& more = Json::object()) {
  return tiny("PerceiverForMaskedLM", more);
}

ModelSpec multimodal() {
  return tiny("PerceiverForMultimodalAutoencoding", {{"num_frames", 2},
                                                     {"audio_samples_per_frame", 12},
                                                     {"samples_per_patch", 4},
                                                     {"output_shape", {1, 2, 8, 12}},
                                                     {"output_num_channels", 16},
                                                     {"_label_trainable_num_channels", 20}});
}

ArrayMap weights_of(const ModelSpec& spec) {
  return random_parameters(spec, InitScheme::kDeepMind, 7);
}

Array run(const ModelSpec& spec, const ModelInputs& inputs, const OutputRequest& request = {}) {
  const auto engine =
      nn::make_engine(spec, weights_of(spec), {.dtype = DType::kF64, .tables = DType::kF64});
  return engine->forward(inputs, request).begin()->second;
}

/// The text input under whatever name the spec has for it.
ModelInputs text_for(const ModelSpec& spec, const std::vector<int64_t>& ids,
                     const std::vector<bool>& valid = {}) {
  ModelInputs inputs;
  const auto count = static_cast<int64_t>(ids.size());
  inputs.arrays[spec.inputs[0].name] = Array::of<int64_t>({1, count}, ids);
  if (!valid.empty()) {
    Array mask = Array::zeros(DType::kBool, {1, count});
    for (size_t i = 0; i < valid.size(); ++i) {
      mask.mutable_data<bool>()[i] = valid[i];
    }
    inputs.masks[spec.inputs[0].name] = mask;
  }
  return inputs;
}

const std::vector<int64_t> kIds{4, 70, 80, 90, 100, 5};

TEST(Quirks, Q01TheGeluIsErfInTransformersAndTanhInDeepMind) {
  const ModelSpec erf = language();
  EXPECT_EQ(erf.compatibility.activation, Activation::kGeluErf);
  EXPECT_EQ(as_deepmind(erf).compatibility.activation, Activation::kGeluTanh);
  ModelSpec tanh = erf;
  tanh.compatibility.activation = Activation::kGeluTanh;
  const double apart =
      test::difference(run(erf, text_for(erf, kIds)), run(tanh, text_for(erf, kIds))).max_abs;
  EXPECT_GT(apart, 1e-6);
  EXPECT_LT(apart, 0.1);
  EXPECT_EQ(language({{"hidden_act", "gelu_new"}}).compatibility.activation, Activation::kGeluTanh);
}

TEST(Quirks, Q03AndQ04ConvolutionPaddingGives3025Or3136Tokens) {
  const ModelSpec conv = preset("vision-perceiver-conv");
  EXPECT_EQ(resolve(as_transformers(conv)).num_inputs, 3025);
  EXPECT_EQ(resolve(as_deepmind(conv)).num_inputs, 3136);
}

TEST(Quirks, Q05TheLearnedModelsDecoderResidualDiffers) {
  const ModelSpec learned = preset("vision-perceiver-learned");
  EXPECT_TRUE(as_transformers(learned).decoder.cross_attend.use_query_residual);
  EXPECT_FALSE(as_deepmind(learned).decoder.cross_attend.use_query_residual);
  for (const char* other : {"vision-perceiver-fourier", "vision-perceiver-conv"}) {
    EXPECT_TRUE(as_deepmind(preset(other)).decoder.cross_attend.use_query_residual) << other;
  }
}

TEST(Quirks, Q06ADecoderQueryMaskMattersOnlyInDeepMindsForm) {
  const ModelSpec theirs = language();
  const ModelSpec deepmind = as_deepmind(theirs);
  const std::vector<int64_t> other{4, 71, 81, 91, 101, 5};
  OutputRequest masked;
  Array rows = Array::zeros(DType::kBool, {1, 6});
  rows.mutable_data<bool>()[0] = true;
  masked.query_masks[theirs.outputs[0].name] = rows;
  // transformers takes the mask and ignores it.
  EXPECT_EQ(test::difference(run(theirs, text_for(theirs, kIds), masked),
                             run(theirs, text_for(theirs, kIds)))
                .max_abs,
            0);
  // DeepMind's masked rows are constants, whatever was read.
  const Array one = run(deepmind, text_for(deepmind, kIds), masked).reshape({6, 262});
  const Array two = run(deepmind, text_for(deepmind, other), masked).reshape({6, 262});
  EXPECT_EQ(test::difference(one.rows(1, 6), two.rows(1, 6)).max_abs, 0);
  EXPECT_EQ(test::difference(one.rows(1, 2), one.rows(5, 6)).max_abs, 0);
  EXPECT_GT(test::difference(one.rows(0, 1), two.rows(0, 1)).max_abs, 1e-6);
}

TEST(Quirks, Q07ATextWithoutAnyValidTokenIsAMeanOrNothing) {
  ModelSpec mean = language();
  EXPECT_EQ(mean.compatibility.masked_rows, MaskedRows::kMean);
  EXPECT_EQ(as_deepmind(mean).compatibility.masked_rows, MaskedRows::kZero);
  ModelSpec zero = mean;
  zero.compatibility.masked_rows = MaskedRows::kZero;
  const std::vector<bool> none(6, false);
  const std::vector<int64_t> other{9, 9, 9, 9, 9, 9};
  // A mean still depends on the masked tokens; nothing does not.
  EXPECT_GT(test::difference(run(mean, text_for(mean, kIds, none)),
                             run(mean, text_for(mean, other, none)))
                .max_abs,
            1e-6);
  EXPECT_EQ(test::difference(run(zero, text_for(zero, kIds, none)),
                             run(zero, text_for(zero, other, none)))
                .max_abs,
            0);
}

TEST(Quirks, Q08TheConfigsLayerNormEpsIsNeverRead) {
  EXPECT_EQ(language({{"layer_norm_eps", 1e-12}}).compatibility.layer_norm_eps, 1e-5);
  EXPECT_EQ(language({{"layer_norm_eps", 0.5}}).compatibility.layer_norm_eps, 1e-5);
}

/// Sound of a still, silent clip: all six rows at once, then by index.
std::pair<Array, Array> whole_and_points(AxisGrid whole_grid) {
  ModelSpec spec = multimodal();
  for (OutputSpec& output : spec.outputs) {
    output.whole_grid = whole_grid;
  }
  ModelInputs inputs;
  for (const InputSpec& input : spec.inputs) {
    std::vector<int64_t> shape{1};
    if (input.kind != InputKind::kLabel) {
      shape.insert(shape.end(), input.index_dims.begin(), input.index_dims.end());
    }
    shape.push_back(input.channels);
    inputs.arrays[input.name] = Array::zeros(DType::kF64, shape);
  }
  const auto engine =
      nn::make_engine(spec, weights_of(spec), {.dtype = DType::kF64, .tables = DType::kF64});
  OutputRequest whole;
  OutputRequest points;
  whole.only = points.only = {"audio"};
  points.points["audio"] = {0, 1, 2, 3, 4, 5};
  return {engine->forward(inputs, whole).at("audio").reshape({6, 4}),
          engine->forward(inputs, points).at("audio").reshape({6, 4})};
}

TEST(Quirks, Q12PointsLieOnAnotherGridThanTheWhole) {
  const auto [inclusive, points] = whole_and_points(AxisGrid::kInclusive);
  EXPECT_LT(test::difference(inclusive.rows(0, 1), points.rows(0, 1)).max_abs,
            1e-12);  // both begin at -1
  EXPECT_GT(test::difference(inclusive.rows(5, 6), points.rows(5, 6)).max_abs, 1e-6);  // 1 and 2/3
  const auto [half_open, same] = whole_and_points(AxisGrid::kHalfOpen);
  EXPECT_LT(test::difference(half_open, same).max_abs, 1e-12);
  // transformers only decodes by index, so asking its model for everything joins the chunks.
  EXPECT_EQ(multimodal().output("audio").whole_grid, AxisGrid::kHalfOpen);
}

TEST(Quirks, Q13TransformersTrainsWithAttentionDropout) {
  const ModelSpec theirs = language();
  EXPECT_EQ(theirs.compatibility.attention_dropout, 0.1);
  EXPECT_EQ(as_deepmind(theirs).compatibility.attention_dropout, 0);
  const at::NoGradGuard no_grad;
  const auto twice_apart = [&](const ModelSpec& spec, bool training) {
    nn::Model model(spec, weights_of(spec), {.dtype = at::kDouble, .tables = DType::kF64});
    model.set_training(training);
    nn::TensorInputs inputs;
    const ModelInputs plain = text_for(spec, kIds);
    inputs.arrays[spec.inputs[0].name] = nn::to_tensor(plain.arrays.begin()->second);
    const Array one = nn::to_array(model.forward(inputs).begin()->second);
    return test::difference(one, nn::to_array(model.forward(inputs).begin()->second)).max_abs;
  };
  EXPECT_GT(twice_apart(theirs, true), 1e-6);
  EXPECT_EQ(twice_apart(theirs, false), 0);
  EXPECT_EQ(twice_apart(as_deepmind(theirs), true), 0);
}

TEST(Quirks, Q17RunningAveragesAreDebiasedOrPlain) {
  ModelSpec spec = tiny("PerceiverForImageClassificationConvProcessing");
  const std::string input = spec.inputs[0].name;
  const auto after_one_step = [&](BatchNormAverage rule, const std::string& leaf) {
    spec.compatibility.batch_norm_average = rule;
    const at::NoGradGuard no_grad;
    nn::Model model(spec, weights_of(spec), {.dtype = at::kDouble, .tables = DType::kF64});
    model.set_training(true);
    nn::TensorInputs inputs;
    Array picture = Array::zeros(DType::kF64, {1, 16, 16, 3});
    for (int64_t i = 0; i < picture.numel(); ++i) {
      picture.mutable_data<double>()[i] = static_cast<double>(i * i % 101) / 50 - 1;
    }
    inputs.arrays[input] = nn::to_tensor(picture);
    model.forward(inputs);
    return model.parameters().at("inputs." + input + ".batch_norm.0." + leaf).clone();
  };
  const at::Tensor mean = after_one_step(BatchNormAverage::kZeroDebiased, "running_mean");
  const at::Tensor variance = after_one_step(BatchNormAverage::kZeroDebiased, "running_var");
  // One step: DeepMind's average is the batch's own; PyTorch moves a tenth of the way from 0 and 1,
  // with the unbiased variance of the 8 x 8 pixels.
  const at::Tensor plain_mean = 0.1 * mean;
  const at::Tensor plain_variance = 0.9 + 0.1 * variance * (64.0 / 63.0);
  EXPECT_LT((after_one_step(BatchNormAverage::kPlain, "running_mean") - plain_mean)
                .abs()
                .max()
                .item<double>(),
            1e-12);
  EXPECT_LT((after_one_step(BatchNormAverage::kPlain, "running_var") - plain_variance)
                .abs()
                .max()
                .item<double>(),
            1e-12);
}

TEST(Quirks, Q19StridedPixelsHaveNoTransformersForm) {
  ModelSpec spec = preset("vision-perceiver-fourier");
  EXPECT_TRUE(has_hugging_face_form(as_transformers(spec)));
  spec = as_transformers(spec);
  spec.inputs[0].downsample = {2, 2};
  EXPECT_FALSE(has_hugging_face_form(spec));
}

TEST(Quirks, Q20TheProjectionDecoderHasNoTransformersForm) {
  ModelSpec spec = as_transformers(preset("vision-perceiver-fourier"));
  spec.decoder.kind = DecoderKind::kProjection;
  EXPECT_FALSE(has_hugging_face_form(spec));
}

TEST(Quirks, Q21TheConvolutionStemHasOneLayerInTransformers) {
  ModelSpec spec = as_transformers(preset("vision-perceiver-conv"));
  EXPECT_EQ(spec.inputs[0].num_conv_layers, 1);
  spec.inputs[0].num_conv_layers = 2;
  EXPECT_FALSE(has_hugging_face_form(spec));
}

TEST(Quirks, Q22TheConfigsQueryResidualIsTheEncodersOnly) {
  const ModelSpec off =
      tiny("PerceiverForImageClassificationFourier", {{"use_query_residual", false}});
  EXPECT_FALSE(off.encoder.cross_attend.use_query_residual);
  EXPECT_TRUE(off.decoder.cross_attend.use_query_residual);
  EXPECT_FALSE(language({{"use_query_residual", true}}).decoder.cross_attend.use_query_residual);
}

TEST(Quirks, Q26ALanguageModelAnswersEveryRowOrOnlyItsOwn) {
  const ModelSpec spec = language();
  const auto engine = nn::make_engine(spec, weights_of(spec), {});
  const Array ids = Array::of<int64_t>({1, 6}, kIds);
  EXPECT_EQ(tasks::forward(*engine, {{"inputs", ids}}).at("logits").size(1),
            10);  // as transformers
  EXPECT_EQ(engine->forward(text_for(spec, kIds)).begin()->second.size(1), 6);
}

TEST(Quirks, Q27TheMultimodalModelNeverSeesTheLabel) {
  const ModelSpec spec = multimodal();
  EXPECT_EQ(spec.input("label").mask_probability, 1);
  const auto engine = nn::make_engine(spec, weights_of(spec), {});
  const auto label_logits = [&](float value) {
    ArrayMap tensors{{"inputs.image", Array::zeros(DType::kF32, {1, 2, 3, 8, 12})},
                     {"inputs.audio", Array::zeros(DType::kF32, {1, 24, 1})},
                     {"inputs.label", Array::of<float>({1, 3}, {value, 0, 1})},
                     {"subsampled_output_points.audio", Array::of<int64_t>({1}, {0})},
                     {"subsampled_output_points.image", Array::of<int64_t>({1}, {0})}};
    return tasks::forward(*engine, tensors).at("logits.label");
  };
  EXPECT_EQ(test::difference(label_logits(0), label_logits(50)).max_abs, 0);
}

TEST(Quirks, Q28LearnedPositionsAreAsWideAsTheStemInTransformers) {
  ModelSpec spec = as_transformers(preset("vision-perceiver-learned"));
  EXPECT_TRUE(has_hugging_face_form(spec));
  spec.inputs[0].position.num_channels = 6;
  EXPECT_FALSE(has_hugging_face_form(spec));
}

TEST(Quirks, Q29ModalitiesGoInTheOrderOfTheirNames) {
  const ModelShape shape = resolve(multimodal());
  ASSERT_EQ(shape.inputs.size(), 3U);
  EXPECT_EQ(shape.inputs[0].name, "audio");
  EXPECT_EQ(shape.inputs[1].name, "image");
  EXPECT_EQ(shape.inputs[2].name, "label");
}

}  // namespace
}  // namespace perceiver::parity
