#include <gtest/gtest.h>

#include "parity/oracle.h"
#include "perceiver/base/str.h"
#include "perceiver/io/haiku_checkpoint.h"
#include "perceiver/spec/haiku.h"
#include "perceiver/tokens/patches.h"
#include "support/compare.h"
#include "support/deepmind_spec.h"
#include "support/shared.h"

// Whole models against DeepMind's own code: their pickle, their inputs, their results.

namespace perceiver::parity {
namespace {

constexpr int kMostLayers = 8;

/// One recorded model.
struct DeepMindModel {
  ModelSpec spec;
  ArrayMap weights;
  ArrayMap in;        ///< `in.*`
  OracleCall stages;  ///< every result, stages under our names

  explicit DeepMindModel(const std::filesystem::path& folder)
      : spec(test::deepmind_fixture_spec(folder)) {
    const std::filesystem::path pickle = folder / "params.pickle";
    const io::HaikuCheckpoint checkpoint = io::read_haiku_checkpoint(pickle);
    weights = from_haiku(spec, checkpoint.params, checkpoint.state, pickle.string());
    stages = read_oracle(folder / "io.safetensors", {}).at("");
    in = stages.inputs;
    std::map<std::string, std::string> names{{"preprocessed", "tokens"},
                                             {"latents_after_cross", "latents.0"},
                                             {"decoder_query", "decoder_queries"},
                                             {"decoder_cross_out", "decoder_output"}};
    int last = 0;
    for (int layer = 0; layer < kMostLayers; ++layer) {
      const std::string theirs = cat("latents_after_self_", layer);
      last = stages.f32.count(theirs) != 0 ? layer + 1 : last;
      names[theirs] = cat("latents.", layer + 1);
    }
    // The last latents were recorded twice; float64 only under this name.
    stages.f32.erase(cat("latents_after_self_", last - 1));
    names["latents_out"] = cat("latents.", last);
    rename_stages(stages, names);
  }

  /// Expects `wanted` of the recorded results, each under our name for it.
  void expect(const OurStages& ours, const std::map<std::string, std::string>& wanted,
              bool fourier = false) const {
    OracleCall call;
    for (const auto& [theirs, name] : wanted) {
      call.f32[name] = stages.f32.at(theirs);
      if (const auto exact = stages.f64.find(theirs); exact != stages.f64.end()) {
        call.f64[name] = exact->second;
      }
    }
    Bars bars;
    bars.like_f32 = fourier ? 3e-5 : 3e-6;
    expect_same_stages(call, ours, bars);
  }

  /// The stages every model has, and `more`.
  void expect_all(const OurStages& ours, std::map<std::string, std::string> more,
                  bool fourier = false) const {
    for (const auto& [name, unused] : stages.f32) {
      if (name == "tokens" || name.rfind("latents.", 0) == 0 || name == "decoder_queries" ||
          name == "decoder_output") {
        more[name] = name;
      }
    }
    expect(ours, more, fourier);
  }
};

ModelInputs inputs_of(const std::string& name, const Array& array) {
  ModelInputs inputs;
  inputs.arrays[name] = array;
  return inputs;
}

#define MODEL_OR_SKIP(variable, name)                                         \
  PERCEIVER_SHARED_OR_SKIP(folder, std::string("fixtures/deepmind/") + name); \
  const DeepMindModel variable(folder)

TEST(DeepMindShared, LanguageWithPaddingAndAFullyMaskedRow) {
  MODEL_OR_SKIP(model, "language");
  ModelInputs inputs = inputs_of("inputs", model.in.at("inputs").to(DType::kI64));
  inputs.masks["inputs"] = model.in.at("input_mask").to(DType::kBool);
  OutputRequest request;
  request.query_masks["logits"] = inputs.masks["inputs"];
  const OurStages ours = run_ours(model.spec, model.weights, inputs, request);
  model.expect_all(ours, {{"logits", "logits"}});
  model.expect(ours, {{"output_embeddings", "decoder_output"}});
}

TEST(DeepMindShared, LearnedPositionsWithoutDecoderResidual) {
  MODEL_OR_SKIP(model, "imagenet_learned");
  const ModelInputs inputs = inputs_of("inputs", model.in.at("images"));
  EXPECT_FALSE(model.spec.decoder.cross_attend.use_query_residual);
  model.expect_all(run_ours(model.spec, model.weights, inputs), {{"logits", "logits"}});
  ModelSpec residual = model.spec;
  residual.decoder.cross_attend.use_query_residual = true;
  model.expect(run_ours(residual, model.weights, inputs),
               {{"logits_with_decoder_query_residual", "logits"}});
}

TEST(DeepMindShared, FourierPixelsAndAnInputMask) {
  MODEL_OR_SKIP(model, "imagenet_fourier");
  ModelInputs inputs = inputs_of("inputs", model.in.at("images"));
  model.expect_all(run_ours(model.spec, model.weights, inputs), {{"logits", "logits"}}, true);
  inputs.masks["inputs"] = model.in.at("input_mask").to(DType::kBool);
  model.expect(run_ours(model.spec, model.weights, inputs),
               {{"logits_with_input_mask", "logits"}, {"latents_out_with_input_mask", "latents.4"}},
               true);
}

TEST(DeepMindShared, ConvolutionStemOnEvenAndOddPictures) {
  MODEL_OR_SKIP(model, "imagenet_conv");
  model.expect_all(run_ours(model.spec, model.weights, inputs_of("inputs", model.in.at("images"))),
                   {{"logits", "logits"}}, true);
  model.expect(run_ours(model.spec, model.weights, inputs_of("inputs", model.in.at("images_odd"))),
               {{"logits_odd", "logits"}}, true);
}

TEST(DeepMindShared, OpticalFlowFromItsNeighbourhoods) {
  MODEL_OR_SKIP(model, "optical_flow");
  const Array patches = tokens::extract_neighbourhoods(model.in.at("images"), 3);
  EXPECT_EQ(test::difference(patches, model.stages.f32.at("patches")).max_abs, 0);
  model.expect_all(run_ours(model.spec, model.weights, inputs_of("inputs", patches)),
                   {{"model_output", "logits"}}, true);
}

TEST(DeepMindShared, ProjectionDecoderAndUnusualSwitches) {
  MODEL_OR_SKIP(model, "perceiver_projection");
  model.expect_all(run_ours(model.spec, model.weights, inputs_of("inputs", model.in.at("images"))),
                   {{"logits", "logits"}}, true);
}

/// The multimodal model's clip.
ModelInputs clip(const DeepMindModel& model) {
  ModelInputs inputs;
  inputs.arrays = {{"audio", model.in.at("audio")},
                   {"image", model.in.at("images")},
                   {"label", model.in.at("label")}};
  return inputs;
}

std::map<std::string, std::string> modalities(const std::string& prefix) {
  std::map<std::string, std::string> names;
  for (const char* modality : {"audio", "image", "label"}) {
    names[cat(prefix, "_", modality)] = cat("logits.", modality);
  }
  return names;
}

OutputRequest points(std::vector<int64_t> audio, std::vector<int64_t> image) {
  OutputRequest request;
  request.points = {{"audio", std::move(audio)}, {"image", std::move(image)}};
  return request;
}

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> out;
  for (int64_t i = begin; i < end; ++i) {
    out.push_back(i);
  }
  return out;
}

std::vector<int64_t> integers(const Array& array) {
  const Array wide = array.to(DType::kI64);
  return {wide.data<int64_t>(), wide.data<int64_t>() + wide.numel()};
}

TEST(DeepMindShared, MultimodalChunks) {
  MODEL_OR_SKIP(model, "multimodal");
  std::map<std::string, std::string> wanted = modalities("chunk0");
  wanted["decoder_query_chunk0"] = "decoder_queries";
  model.expect_all(
      run_ours(model.spec, model.weights, clip(model), points(range(0, 3), range(0, 96))), wanted,
      true);
  model.expect(
      run_ours(model.spec, model.weights, clip(model), points(range(9, 12), range(288, 384))),
      {{"decoder_query_chunk3", "decoder_queries"}}, true);
}

TEST(DeepMindShared, MultimodalPointsInAnyOrderAndRepeated) {
  MODEL_OR_SKIP(model, "multimodal");
  const OutputRequest request =
      points(integers(model.in.at("points_audio")), integers(model.in.at("points_image")));
  model.expect(run_ours(model.spec, model.weights, clip(model), request), modalities("points"),
               true);
}

TEST(DeepMindShared, MultimodalChunksJoinedAreTheReconstruction) {
  MODEL_OR_SKIP(model, "multimodal");
  OurStages ours =
      run_ours(model.spec, model.weights, clip(model), points(range(0, 12), range(0, 384)));
  for (ArrayMap* stages : {&ours.f32, &ours.f64}) {
    stages->at("logits.image") = stages->at("logits.image").reshape({2, 4, 8, 12, 3});
    stages->at("logits.audio") = stages->at("logits.audio").reshape({2, 48, 1});
  }
  model.expect(ours, modalities("reconstruction"), true);
}

TEST(DeepMindShared, MultimodalWholeGridReachesItsEnds) {
  MODEL_OR_SKIP(model, "multimodal");
  OurStages ours = run_ours(model.spec, model.weights, clip(model));
  for (ArrayMap* stages : {&ours.f32, &ours.f64}) {
    stages->at("logits.image") = stages->at("logits.image").reshape({2, 384, 3});
    stages->at("logits.audio") = stages->at("logits.audio").reshape({2, 48});
  }
  model.expect(ours, modalities("whole"), true);
}

TEST(DeepMindShared, MultimodalTokensReplacedByTheirMaskToken) {
  MODEL_OR_SKIP(model, "multimodal");
  ModelInputs inputs = clip(model);
  for (const char* modality : {"audio", "image", "label"}) {
    inputs.replaced[modality] = model.in.at(cat("mask_", modality)).to(DType::kBool);
  }
  std::map<std::string, std::string> wanted = modalities("masked");
  wanted["masked_preprocessed"] = "tokens";
  model.expect(run_ours(model.spec, model.weights, inputs, points(range(0, 3), range(0, 96))),
               wanted, true);
}

}  // namespace
}  // namespace perceiver::parity
