#include "perceiver/spec/hugging_face.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/json.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/spec/haiku.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "support/shared.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The keys that tell the released configurations from transformers' defaults.
Json released_config(const std::string& model) {
  Json json{{"model_type", "perceiver"}};
  const auto vision = [&](const char* name) {
    json["architectures"] = {name};
    json.update({{"num_latents", 512},
                 {"d_latents", 1024},
                 {"num_blocks", 8},
                 {"num_self_attends_per_block", 6},
                 {"num_cross_attention_heads", 1}});
    for (int i = 0; i < 1000; ++i) {
      json["id2label"][std::to_string(i)] = "class " + std::to_string(i);
    }
  };
  if (model == "language-perceiver") {
    json["architectures"] = {"PerceiverForMaskedLM"};
    json.update({{"qk_channels", 256}, {"v_channels", 1280}});
  } else if (model == "language-perceiver-sequence-classification") {
    json["architectures"] = {"PerceiverForSequenceClassification"};
    json.update({{"qk_channels", 256}, {"v_channels", 1280}});
  } else if (model == "vision-perceiver-learned") {
    vision("PerceiverForImageClassificationLearned");
    json["image_size"] = 224;
  } else if (model == "vision-perceiver-fourier") {
    vision("PerceiverForImageClassificationFourier");
  } else if (model == "vision-perceiver-conv") {
    vision("PerceiverForImageClassificationConvProcessing");
  } else if (model == "optical-flow-perceiver") {
    json["architectures"] = {"PerceiverForOpticalFlow"};
    json.update({{"num_latents", 2048},
                 {"d_latents", 512},
                 {"num_self_attends_per_block", 24},
                 {"num_self_attention_heads", 16},
                 {"num_cross_attention_heads", 1}});
  } else {
    json["architectures"] = {"PerceiverForMultimodalAutoencoding"};
    json.update({{"num_latents", 784},
                 {"d_latents", 512},
                 {"num_self_attends_per_block", 8},
                 {"num_cross_attention_heads", 1},
                 {"num_labels", 700}});
  }
  return json;
}

const char* const kReleased[] = {
    "language-perceiver",       "language-perceiver-sequence-classification",
    "vision-perceiver-learned", "vision-perceiver-fourier",
    "vision-perceiver-conv",    "optical-flow-perceiver",
    "multimodal-perceiver"};

TEST(HuggingFaceConfig, ReleasedConfigurationsAreThePresets) {
  for (const char* model : kReleased) {
    SCOPED_TRACE(model);
    ModelSpec read = config_from_hugging_face(released_config(model), "config.json").spec;
    read.name = model;
    read.labels.clear();
    EXPECT_EQ(spec_to_json(read), spec_to_json(preset(model)));
  }
}

TEST(HuggingFaceConfig, PresetsSurviveTheRoundTrip) {
  for (const char* model : kReleased) {
    SCOPED_TRACE(model);
    const ModelSpec spec = preset(model);
    EXPECT_TRUE(has_hugging_face_form(spec));
    const Json written = config_to_hugging_face(spec);
    ModelSpec read = config_from_hugging_face(written, "config.json").spec;
    read.name = spec.name;
    EXPECT_EQ(spec_to_json(read), spec_to_json(spec));
  }
}

TEST(HuggingFaceConfig, LabelsFollowTheirIntegers) {
  const Json json = released_config("vision-perceiver-fourier");
  const ModelSpec spec = config_from_hugging_face(json, "config.json").spec;
  ASSERT_EQ(spec.labels.size(), 1000u);
  EXPECT_EQ(spec.labels[2], "class 2");
  EXPECT_EQ(spec.labels[10], "class 10");
  EXPECT_EQ(spec.decoder.output_channels, 1000);
}

TEST(HuggingFaceConfig, PlaceholderLabelsAreNoNamesButCount) {
  Json json = released_config("language-perceiver-sequence-classification");
  json["id2label"] = {{"0", "LABEL_0"}, {"1", "LABEL_1"}, {"2", "LABEL_2"}};
  const ModelSpec spec = config_from_hugging_face(json, "config.json").spec;
  EXPECT_TRUE(spec.labels.empty());
  EXPECT_EQ(spec.decoder.output_channels, 3);
  EXPECT_EQ(config_to_hugging_face(spec)["id2label"]["2"], "LABEL_2");
}

TEST(HuggingFaceConfig, WritesLabelsUnderTheirNumbers) {
  ModelSpec spec = preset("language-perceiver-sequence-classification");
  spec.labels = {"no", "yes"};
  const Json json = config_to_hugging_face(spec);
  EXPECT_EQ(json["id2label"]["1"], "yes");
  EXPECT_EQ(json["label2id"]["yes"], 1);
}

TEST(HuggingFaceConfig, LegacyAndNullKeysAreAccepted) {
  Json json = released_config("vision-perceiver-fourier");
  json.update({{"hidden_dropout_prob", 0.1},
               {"position_embedding_init_scale", 0.02},
               {"seq_len", 2048},
               {"torch_dtype", "float32"},
               {"qk_channels", nullptr},
               {"v_channels", nullptr},
               {"layer_norm_eps", 1e-12},
               {"initializer_range", 0.05}});
  const HuggingFaceConfig config = config_from_hugging_face(json, "config.json");
  EXPECT_EQ(config.initializer_range, 0.05);
  EXPECT_EQ(config.spec.compatibility.layer_norm_eps, 1e-5);  // the key is never read
}

TEST(HuggingFaceConfig, ActivationWordsAreTranslatedBothWays) {
  Json json = released_config("language-perceiver");
  json["hidden_act"] = "gelu_new";
  const ModelSpec spec = config_from_hugging_face(json, "config.json").spec;
  EXPECT_EQ(spec.compatibility.activation, Activation::kGeluTanh);
  EXPECT_EQ(config_to_hugging_face(spec)["hidden_act"], "gelu_new");
}

struct BadConfig {
  const char* key;
  const char* value;
  ErrorCode code;
  const char* message;
};

class BadHuggingFaceConfig : public testing::TestWithParam<BadConfig> {};

TEST_P(BadHuggingFaceConfig, IsRefusedByKey) {
  Json json = released_config("language-perceiver-sequence-classification");
  json[GetParam().key] = Json::parse(GetParam().value);
  try {
    config_from_hugging_face(json, "dir/config.json");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code);
    EXPECT_THAT(error.what(), HasSubstr("dir/config.json: "));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

const BadConfig kBadConfigs[] = {
    {"num_latent", "4", ErrorCode::kFormat,
     "unknown key 'num_latent', nearest known is 'num_latents'"},
    {"num_latents", "-4", ErrorCode::kFormat, "num_latents must be an integer"},
    {"num_latents", "0", ErrorCode::kFormat, "num_latents (0)"},
    {"num_latents", "null", ErrorCode::kFormat, "num_latents must be an integer"},
    {"architectures", "[\"BertModel\"]", ErrorCode::kUnsupported, "architecture 'BertModel'"},
    {"architectures", "[]", ErrorCode::kFormat, "architectures must name the one class"},
    {"model_type", "\"bert\"", ErrorCode::kUnsupported, "model_type is 'bert'"},
    {"hidden_act", "\"mish\"", ErrorCode::kUnsupported, "hidden_act 'mish'"},
    {"cross_attention_shape_for_attention", "\"k\"", ErrorCode::kFormat, "must be kv or q"},
    {"id2label", "{\"0\": \"a\", \"2\": \"b\"}", ErrorCode::kFormat, "integers 0 to 1"},
    {"id2label", "{\"0\": \"a\", \"00\": \"b\"}", ErrorCode::kFormat, "each once"},
    {"id2label", "{\"0\": 7}", ErrorCode::kFormat, "id2label.0 must be a string"},
    {"id2label", "{}", ErrorCode::kFormat, "output_channels (0)"},
    {"num_self_attention_heads", "7", ErrorCode::kFormat,
     "d_latents (1280) must be divisible by num_self_attention_heads (7)"},
    {"attention_probs_dropout_prob", "1.5", ErrorCode::kFormat, "attention_dropout (1.5)"},
};

INSTANTIATE_TEST_SUITE_P(Configs, BadHuggingFaceConfig, testing::ValuesIn(kBadConfigs));

TEST(HuggingFaceConfig, SaysWhatTransformersCannotExpress) {
  const auto complaint = [](const ModelSpec& spec) -> std::string {
    EXPECT_FALSE(has_hugging_face_form(spec));
    try {
      config_to_hugging_face(spec);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(complaint(preset("modelnet40")), HasSubstr("names no architecture"));
  EXPECT_THAT(complaint(as_deepmind(preset("vision-perceiver-learned"))),
              HasSubstr("compatibility"));
  ModelSpec flow = preset("optical-flow-perceiver");
  flow.outputs[0].divide_by = 50;
  EXPECT_THAT(complaint(flow), HasSubstr("outputs[0].divide_by is 50.0 here and 100.0 in "
                                         "PerceiverForOpticalFlow"));
  ModelSpec repeated = preset("vision-perceiver-fourier");
  repeated.encoder.num_cross_attends = 2;
  EXPECT_THAT(complaint(repeated),
              HasSubstr("encoder.num_cross_attends is 2 here and the default"));
  ModelSpec unknown = preset("vision-perceiver-fourier");
  unknown.architecture = "PerceiverForSpeech";
  EXPECT_THAT(complaint(unknown), HasSubstr("PerceiverForSpeech"));
}

TEST(HuggingFaceConfig, NominalPictureSizeIsNoObstacle) {
  ModelSpec spec = preset("vision-perceiver-fourier");
  spec.inputs[0].index_dims = {32, 48};
  EXPECT_TRUE(has_hugging_face_form(spec));
}

TEST(HuggingFaceNames, TensorsTravelBothWays) {
  ModelSpec spec = preset("vision-perceiver-conv");
  spec.encoder.num_latents = 4;
  spec.encoder.latent_channels = 8;
  spec.outputs[0].channels = 8;
  const ArrayMap ours = random_parameters(spec, InitScheme::kTransformers, 1);
  const ArrayMap theirs = to_hugging_face(spec, ours);
  EXPECT_THAT(theirs.at("perceiver.input_preprocessor.convnet.conv.weight").shape(),
              ElementsAre(64, 3, 7, 7));
  const ArrayMap back = from_hugging_face(spec, theirs, "here");
  ASSERT_EQ(back.size(), ours.size());
  EXPECT_EQ(back.at("latents").bytes(), ours.at("latents").bytes());
}

TEST(HuggingFaceNames, ComplaintsUseTheirNames) {
  ModelSpec spec = preset("vision-perceiver-fourier");
  spec.encoder.num_latents = 4;
  spec.encoder.latent_channels = 8;
  spec.outputs[0].channels = 8;
  ArrayMap theirs = to_hugging_face(spec, random_parameters(spec, InitScheme::kDeepMind, 1));
  theirs.erase("perceiver.embeddings.latents");
  theirs["classifier.weight"] = Array::zeros(DType::kF32, {1});
  try {
    from_hugging_face(spec, theirs, "model.safetensors");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("missing: perceiver.embeddings.latents [4, 8]"));
    EXPECT_THAT(error.what(), HasSubstr("surplus: classifier.weight [1]"));
  }
}

TEST(HuggingFaceNames, TiedDuplicateIsAcceptedOnlyWhenItIsTheSame) {
  ModelSpec spec = preset("language-perceiver");
  spec.encoder.num_latents = 4;
  spec.encoder.num_self_attends_per_block = 1;
  ArrayMap theirs = to_hugging_face(spec, random_parameters(spec, InitScheme::kDeepMind, 1));
  const char* embedding = "perceiver.input_preprocessor.embeddings.weight";
  theirs["embedding_decoder.weight"] = theirs.at(embedding).clone();
  EXPECT_NO_THROW(from_hugging_face(spec, theirs, "here"));
  theirs["embedding_decoder.weight"] = Array::zeros(DType::kF32, theirs.at(embedding).shape());
  EXPECT_THROW(from_hugging_face(spec, theirs, "here"), Error);
}

// Against folders that transformers itself wrote.
class HuggingFaceShared : public testing::TestWithParam<const char*> {};

TEST_P(HuggingFaceShared, ConfigGivesExactlyTheTensorsOfTheFile) {
  PERCEIVER_SHARED_OR_SKIP(folder, std::string("fixtures/transformers/") + GetParam());
  const ModelSpec spec =
      config_from_hugging_face(read_json(folder / "config.json"), "config.json").spec;
  std::vector<std::string> names, expected;
  for (const NamePair& pair : hugging_face_names(spec)) {
    names.push_back(pair.theirs);
  }
  const ArrayMap theirs = io::read_safetensors(folder / "model.safetensors");
  for (const auto& [name, array] : theirs) {
    expected.push_back(name);
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, expected);
  const ArrayMap ours = from_hugging_face(spec, theirs, "model.safetensors");
  EXPECT_NO_THROW(check_parameters(spec, ours, "model.safetensors"));

  Json written = config_to_hugging_face(spec);
  ModelSpec again = config_from_hugging_face(written, "written").spec;
  EXPECT_EQ(spec_to_json(again), spec_to_json(spec));
}

INSTANTIATE_TEST_SUITE_P(Folders, HuggingFaceShared,
                         testing::Values("language", "sequence_classification", "vision_learned",
                                         "vision_fourier", "vision_conv", "optical_flow",
                                         "multimodal"));

TEST(HubFolderShared, HubStyleConfigReads) {
  PERCEIVER_SHARED_OR_SKIP(path, "fixtures/transformers/hub_style_vision_conv/config.json");
  const ModelSpec spec = config_from_hugging_face(read_json(path), "config.json").spec;
  EXPECT_THAT(spec.labels, ElementsAre("tench, Tinca tinca", "goldfish, Carassius auratus",
                                       "tabby, tabby cat", "jay", "magpie"));
  EXPECT_EQ(spec.decoder.output_channels, 5);
  EXPECT_EQ(spec.encoder.cross_attend.qk_channels, 16);
}

}  // namespace
}  // namespace perceiver
