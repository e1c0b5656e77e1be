#include "perceiver/tasks/bundle.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"
#include "support/shared.h"
#include "tasks/series_spec.h"

namespace perceiver::tasks {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

Json language_config() {
  return Json::parse(R"({"model_type": "perceiver", "architectures": ["PerceiverForMaskedLM"],
    "num_latents": 3, "d_latents": 8, "d_model": 8, "num_blocks": 1, "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "qk_channels": 8, "v_channels": 8,
    "max_position_embeddings": 12})");
}

class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) /
              ("perceiver_bundle_" + std::string(test->name()) + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static Bundle random_bundle(const ModelSpec& spec) {
    Bundle bundle;
    bundle.spec = spec;
    bundle.weights = random_parameters(spec, InitScheme::kDeepMind, 7);
    return bundle;
  }
  static std::string load_message(const fs::path& path) {
    try {
      load_bundle(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  fs::path folder_;
};

TEST_F(BundleTest, OwnLayoutComesBackAsItWasSaved) {
  Bundle bundle = random_bundle(series_spec());
  bundle.preprocessor = Json{{"size", 4}};
  save_bundle(bundle, folder_ / "m");
  EXPECT_TRUE(fs::exists(folder_ / "m" / "spec.json"));
  const Bundle back = load_bundle(folder_ / "m");
  EXPECT_EQ(spec_to_json(back.spec), spec_to_json(bundle.spec));
  EXPECT_EQ(*back.preprocessor, *bundle.preprocessor);
  ASSERT_EQ(back.weights.size(), bundle.weights.size());
  for (const auto& [name, array] : bundle.weights) {
    const Array& stored = back.weights.at(name);
    ASSERT_EQ(stored.shape(), array.shape()) << name;
    EXPECT_EQ(0, std::memcmp(stored.bytes(), array.bytes(), static_cast<size_t>(array.nbytes())))
        << name;
  }
  EXPECT_EQ(entries(), 1U) << "a temporary was left behind";
}

TEST_F(BundleTest, TransformersLayoutIsUsedWhereItExists) {
  const ModelSpec spec = config_from_hugging_face(language_config(), "config").spec;
  save_bundle(random_bundle(spec), folder_ / "m");
  EXPECT_TRUE(fs::exists(folder_ / "m" / "config.json"));
  EXPECT_FALSE(fs::exists(folder_ / "m" / "spec.json"));
  const ArrayMap stored = io::read_safetensors(folder_ / "m" / "model.safetensors");
  EXPECT_EQ(stored.count("perceiver.embeddings.latents"), 1U);
  EXPECT_EQ(load_bundle(folder_ / "m").spec.architecture, "PerceiverForMaskedLM");
}

TEST_F(BundleTest, AnotherLayoutInTheSameFolderLeavesNoContradiction) {
  const ModelSpec spec = config_from_hugging_face(language_config(), "config").spec;
  save_bundle(random_bundle(spec), folder_ / "m");
  save_bundle(random_bundle(spec), folder_ / "m", Layout::kOurs);
  EXPECT_FALSE(fs::exists(folder_ / "m" / "config.json"));
  EXPECT_EQ(load_message(folder_ / "m"), "");
}

TEST_F(BundleTest, SavingOverTheFolderItWasReadFromIsSafe) {
  save_bundle(random_bundle(series_spec()), folder_ / "m");
  const Bundle bundle = load_bundle(folder_ / "m");  // weights are views of the mapped file
  save_bundle(bundle, folder_ / "m");
  EXPECT_EQ(load_message(folder_ / "m"), "");
}

TEST_F(BundleTest, NamesTheTensorThatIsNotANumber) {
  Bundle bundle = random_bundle(series_spec());
  bundle.weights["latents"] = bundle.weights.at("latents").clone();
  bundle.weights["latents"].mutable_data<float>()[5] = NAN;
  save_bundle(bundle, folder_ / "m");
  EXPECT_THAT(load_message(folder_ / "m"), HasSubstr("latents"));
}

TEST_F(BundleTest, NamesMissingAndSurplusTensorsInOneMessage) {
  Bundle bundle = random_bundle(series_spec());
  save_bundle(bundle, folder_ / "m");
  ArrayMap weights = bundle.weights;
  weights.erase("latents");
  weights["extra"] = Array::zeros(DType::kF32, {1});
  io::write_safetensors(folder_ / "m" / "model.safetensors", weights);
  EXPECT_THAT(load_message(folder_ / "m"), AllOf(HasSubstr("latents"), HasSubstr("extra")));
}

TEST_F(BundleTest, SaysWhatAFolderLacks) {
  EXPECT_THAT(load_message(folder_), AllOf(HasSubstr(folder_.string()), HasSubstr("config.json")));
  EXPECT_THAT(load_message(folder_ / "absent"), HasSubstr("No such file"));
  write_json(folder_ / "spec.json", spec_to_json(series_spec()));
  EXPECT_THAT(load_message(folder_), HasSubstr("model.safetensors"));
  write_json(folder_ / "config.json", language_config());
  EXPECT_THAT(load_message(folder_), HasSubstr("both config.json and spec.json"));
}

TEST_F(BundleTest, PointsFromAWeightsFileToItsFolder) {
  save_bundle(random_bundle(series_spec()), folder_ / "m");
  EXPECT_THAT(load_message(folder_ / "m" / "model.safetensors"), HasSubstr("give the folder"));
}

TEST_F(BundleTest, AFailedSaveLeavesNothingBehind) {
  Bundle bundle = random_bundle(series_spec());
  bundle.weights.erase("latents");
  EXPECT_THROW(save_bundle(bundle, folder_ / "m"), Error);
  EXPECT_THROW(save_bundle(random_bundle(series_spec()), folder_ / "no" / "m"), Error);
  std::ofstream(folder_ / "file") << "x";
  EXPECT_THROW(save_bundle(random_bundle(series_spec()), folder_ / "file"), Error);
  EXPECT_EQ(entries(), 1U);
}

TEST_F(BundleTest, ForcingTransformersOnAModelItLacksIsAnError) {
  EXPECT_THROW(save_bundle(random_bundle(series_spec()), folder_ / "m", Layout::kTransformers),
               Error);
  EXPECT_EQ(entries(), 0U);
}

TEST_F(BundleTest, HalfPrecisionIsWidened) {
  Bundle bundle = random_bundle(series_spec());
  save_bundle(bundle, folder_ / "m");
  ArrayMap half;
  for (const auto& [name, array] : bundle.weights) {
    half[name] = array.to(DType::kBF16);
  }
  io::write_safetensors(folder_ / "m" / "model.safetensors", half);
  EXPECT_EQ(load_bundle(folder_ / "m").weights.at("latents").dtype(), DType::kF32);
}

TEST_F(BundleTest, MakesAnEngineThatRuns) {
  save_bundle(random_bundle(series_spec()), folder_ / "m");
  const Model model = open_model(folder_ / "m");
  ModelInputs inputs;
  inputs.arrays["sensor"] = Array::zeros(DType::kF32, {2, 4, 2});
  const ArrayMap answers = model.engine->forward(inputs);
  EXPECT_THAT(answers.at("state").shape(), ::testing::ElementsAre(2, 6, 5));
  EXPECT_TRUE(model.bundle.weights.empty());
}

TEST_F(BundleTest, UnknownEnginesAndPrecisionsAreNamed) {
  const Bundle bundle = random_bundle(series_spec());
  EXPECT_THROW(make_engine(bundle, {.engine = "warp"}), Error);
  EXPECT_THROW(make_engine(bundle, {.precision = "fp3"}), Error);
  EXPECT_THROW(make_engine(bundle, {.plan = "magic"}), Error);
}

TEST_F(BundleTest, RuntimeIsTheDefaultAndSaysWhatItCannot) {
  const Bundle bundle = random_bundle(series_spec());
  EXPECT_EQ(make_engine(bundle)->name(), "runtime");
  EXPECT_EQ(make_engine(bundle, {.precision = "bf16"})->name(), "runtime");
  const std::vector<EngineChoice> beyond{{.engine = "runtime", .precision = "fp64"},
                                         {.engine = "runtime", .device = "cuda"}};
  for (const EngineChoice& choice : beyond) {
    EXPECT_THROW(make_engine(bundle, choice), Error);
  }
  if (engine_names().find("nn") == std::string::npos) {  // a program without LibTorch
    EXPECT_THROW(make_engine(bundle, {.engine = "nn"}), Error);
    EXPECT_THROW(make_engine(bundle, {.precision = "fp64"}), Error);
  } else {
    EXPECT_EQ(make_engine(bundle, {.engine = "nn"})->name(), "nn");
    EXPECT_EQ(make_engine(bundle, {.precision = "fp64"})->name(), "nn");
  }
}

TEST_F(BundleTest, TheAskedPlanReachesTheEngine) {
  const auto engine = make_engine(random_bundle(series_spec()), {.plan = "absorbed"});
  ModelInputs inputs;
  inputs.arrays["sensor"] = Array::zeros(DType::kF32, {1, 4, 2});
  engine->forward(inputs);
  ASSERT_FALSE(engine->plans().empty());
  EXPECT_EQ(engine->plans()[0].attention, "encoder.cross_attend.0");
  EXPECT_EQ(engine->plans()[0].plan, "absorbed");
}

TEST_F(BundleTest, FindsUnwritablePlacesBeforeTheWork) {
  EXPECT_THROW(require_writable(folder_), Error);
  EXPECT_THROW(require_writable(folder_ / "no" / "file"), Error);
  std::ofstream(folder_ / "file") << "kept";
  EXPECT_THROW(require_writable(folder_ / "file" / "below"), Error);
  EXPECT_NO_THROW(require_writable(folder_ / "file"));
  EXPECT_NO_THROW(require_writable(folder_ / "new"));
  EXPECT_NO_THROW(require_writable("/dev/null"));
  EXPECT_EQ(read_file(folder_ / "file", 100), "kept");
  EXPECT_EQ(entries(), 1U);
}

TEST(BundleShared, ReadsDeepMindsPickleOnlyWhenItIsAReleasedModel) {
  PERCEIVER_SHARED_OR_SKIP(pickle, "fixtures/deepmind/pickle_variants/dict_proto4.pickle");
  EXPECT_THROW(load_bundle(pickle), Error);
}

TEST(BundleShared, ReadsAHubStyleFolderWithTorchWeights) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/transformers/hub_style_vision_conv");
  const Bundle bundle = load_bundle(folder);
  EXPECT_EQ(bundle.spec.architecture, "PerceiverForImageClassificationConvProcessing");
  EXPECT_TRUE(bundle.preprocessor.has_value());
}

}  // namespace
}  // namespace perceiver::tasks
