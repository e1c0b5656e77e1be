#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "fake_engine.h"
#include "perceiver/base/error.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tasks/demo.h"
#include "perceiver/tasks/flow.h"
#include "perceiver/tasks/image.h"
#include "perceiver/tasks/verify.h"
#include "perceiver/tasks/video.h"

namespace perceiver::tasks {
namespace {

using test::FakeEngine;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelSpec picture_spec(int64_t side, int64_t channels) {
  Json json = Json::parse(R"({
    "name": "pictures",
    "inputs": [{"name": "image", "kind": "grid",
                "position": {"kind": "fourier", "num_bands": 3}}],
    "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2}},
    "decoder": {"output_channels": 2},
    "outputs": [{"name": "class", "query": "learned", "index_dims": [1], "channels": 16,
                 "single_row": true}],
    "labels": ["dark", "light"]})");
  json["inputs"][0]["index_dims"] = {side, side};
  json["inputs"][0]["channels"] = channels;
  return spec_from_json(json, "pictures");
}

io::Image flat_picture(int64_t height, int64_t width, uint8_t r, uint8_t g, uint8_t b) {
  Array pixels = Array::zeros(DType::kU8, {height, width, 3});
  for (int64_t i = 0; i < pixels.numel(); i += 3) {
    pixels.mutable_data<uint8_t>()[i] = r;
    pixels.mutable_data<uint8_t>()[i + 1] = g;
    pixels.mutable_data<uint8_t>()[i + 2] = b;
  }
  return io::make_image(pixels);
}

Bundle plain_bundle(ModelSpec spec) {
  Bundle bundle;
  bundle.spec = std::move(spec);
  bundle.path = "model";
  return bundle;
}

// Answers "light" with the brightness of the first sample.
FakeEngine brightness(const ModelSpec& spec) {
  return FakeEngine(spec, [](const ModelInputs& inputs, const OutputRequest&) {
    const float first = inputs.arrays.at("image").data<float>()[0];
    return ArrayMap{{"class", Array::of<float>({1, 2}, {0.0F, first})}};
  });
}

TEST(ClassifyImage, PreparesThePictureAsTheFolderSays) {
  Bundle bundle = plain_bundle(picture_spec(6, 3));
  bundle.preprocessor = Json::parse(
      R"({"size": 6, "do_center_crop": false, "image_mean": [0.5, 0, 0], "image_std": [0.25, 1, 1]})");
  FakeEngine engine = brightness(bundle.spec);
  const ImageAnswer answer = classify_image(bundle, engine, flat_picture(9, 13, 255, 51, 0));
  const Array& given = engine.last_inputs.arrays.at("image");
  ASSERT_THAT(given.shape(), ElementsAre(1, 6, 6, 3));
  EXPECT_NEAR(given.data<float>()[0], 2.0F, 1e-6);
  EXPECT_NEAR(given.data<float>()[1], 0.2F, 1e-6);
  EXPECT_EQ(answer.classes.at(0).label, "light");
  // What it saw is the picture again.
  EXPECT_EQ(answer.seen.pixels.data<uint8_t>()[0], 255);
  EXPECT_EQ(answer.seen.pixels.data<uint8_t>()[1], 51);
}

TEST(ClassifyImage, GreyModelsGetTheLightnessOfAColourPicture) {
  Bundle bundle = plain_bundle(picture_spec(4, 1));
  bundle.preprocessor =
      Json::parse(R"({"size": 4, "do_center_crop": false, "do_normalize": false})");
  FakeEngine engine = brightness(bundle.spec);
  classify_image(bundle, engine, flat_picture(4, 4, 255, 0, 0));
  const Array& given = engine.last_inputs.arrays.at("image");
  EXPECT_THAT(given.shape(), ElementsAre(1, 4, 4, 1));
  EXPECT_NEAR(given.data<float>()[0], 76.0F / 255, 1e-6);  // 0.299 of red
}

TEST(ClassifyImage, RefusesAPreprocessorOfAnotherSize) {
  Bundle bundle = plain_bundle(picture_spec(6, 3));
  bundle.preprocessor = Json{{"size", 8}};
  FakeEngine engine = brightness(bundle.spec);
  try {
    classify_image(bundle, engine, flat_picture(8, 8, 0, 0, 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("8 x 8"));
    EXPECT_THAT(error.what(), HasSubstr("6 x 6"));
  }
}

TEST(ClassifyImage, AttentionCoversThePictureBetweenZeroAndOne) {
  Bundle bundle = plain_bundle(picture_spec(5, 3));
  bundle.weights = random_parameters(bundle.spec, InitScheme::kDeepMind, 3);
  bundle.preprocessor = Json::parse(R"({"size": 5, "do_center_crop": false})");
  const auto engine = make_engine(bundle);
  ClassifyImageOptions options;
  options.attention = true;
  Array pixels = Array::zeros(DType::kU8, {5, 5, 3});
  for (int64_t i = 0; i < pixels.numel(); ++i) {
    pixels.mutable_data<uint8_t>()[i] = static_cast<uint8_t>(i * 37);
  }
  const ImageAnswer answer = classify_image(bundle, *engine, io::make_image(pixels), options);
  ASSERT_THAT(answer.attention.shape(), ElementsAre(5, 5));
  const float* map = answer.attention.data<float>();
  EXPECT_EQ(*std::max_element(map, map + 25), 1.0F);
  EXPECT_EQ(*std::min_element(map, map + 25), 0.0F);
  EXPECT_GE(attention_picture(answer).height(), 112);
}

TEST(DefaultPreprocessor, SaysWhatTheHubsFilesSay) {
  const Json json = *default_preprocessor(preset("vision-perceiver-conv"));
  EXPECT_EQ(json.at("size"), Json::parse(R"({"height": 224, "width": 224})"));
  EXPECT_EQ(json.at("crop_size"), Json::parse(R"({"height": 256, "width": 256})"));
  EXPECT_FALSE(default_preprocessor(preset("language-perceiver")).has_value());
}

TEST(ResizeMap, InterpolatesBetweenPixelCentres) {
  const Array map = Array::of<float>({1, 2}, {0, 1});
  const Array wide = resize_map(map, 1, 4);
  EXPECT_THAT(std::vector<float>(wide.data<float>(), wide.data<float>() + 4),
              ElementsAre(0.0F, 0.25F, 0.75F, 1.0F));
}

TEST(EstimateFlow, ScalesTilesToPixelsAndBlendsThem) {
  Bundle bundle = plain_bundle(preset("optical-flow-perceiver"));
  bundle.spec.inputs[0].index_dims = {2, 24, 32};
  bundle.spec.outputs[0].index_dims = {24, 32};
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest&) {
    return ArrayMap{{bundle.spec.outputs[0].name,
                     Array::of<float>({1, 24, 32, 2}, std::vector<float>(24 * 32 * 2, 0.5F))}};
  });
  int64_t tiles = 0;
  FlowOptions options;
  options.progress = [&](const Progress& progress) { tiles = progress.total; };
  const io::Flow flow = estimate_flow(bundle, engine, flat_picture(30, 40, 9, 9, 9),
                                      flat_picture(30, 40, 9, 9, 9), options);
  ASSERT_THAT(flow.uv.shape(), ElementsAre(30, 40, 2));
  EXPECT_NEAR(flow.uv.data<float>()[77], 10.0F, 1e-5);
  EXPECT_EQ(tiles, engine.encodes);
  EXPECT_GE(tiles, 4);
}

TEST(EstimateFlow, NamesBothSizesWhenTheFramesDiffer) {
  Bundle bundle = plain_bundle(preset("optical-flow-perceiver"));
  FakeEngine engine(bundle.spec, nullptr);
  try {
    estimate_flow(bundle, engine, flat_picture(4, 5, 0, 0, 0), flat_picture(4, 6, 0, 0, 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("5 x 4"));
    EXPECT_THAT(error.what(), HasSubstr("6 x 4"));
  }
  EXPECT_THROW(estimate_flow(plain_bundle(picture_spec(4, 3)), engine, flat_picture(4, 4, 0, 0, 0),
                             flat_picture(4, 4, 0, 0, 0)),
               Error);
}

TEST(Autoencode, EncodesOnceAndAsksEveryRowOnce) {
  const Bundle bundle = plain_bundle(preset("multimodal-perceiver"));
  std::vector<int> image_rows(802816), audio_rows(1920);
  int labels = 0;
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest& request) {
    ArrayMap answers;
    for (const int64_t row : request.points.at("image")) {
      ++image_rows[static_cast<size_t>(row)];
    }
    for (const int64_t row : request.points.at("audio")) {
      ++audio_rows[static_cast<size_t>(row)];
    }
    const auto n = static_cast<int64_t>(request.points.at("image").size());
    const auto m = static_cast<int64_t>(request.points.at("audio").size());
    answers["image"] =
        Array::of<float>({1, n, 3}, std::vector<float>(static_cast<size_t>(3 * n), 0.5F));
    answers["audio"] = Array::zeros(DType::kF32, {1, 16 * m});
    if (std::count(request.only.begin(), request.only.end(), "label") != 0) {
      ++labels;
      answers["label"] = Array::zeros(DType::kF32, {1, 700});
    }
    return answers;
  });
  Clip clip;
  clip.frames = Array::zeros(DType::kF32, {16, 224, 224, 3});
  clip.audio = Array::zeros(DType::kF32, {30720, 1});
  AutoencodeOptions options;
  options.chunks = 7;
  const Reconstruction made = autoencode(bundle, engine, clip, options);
  EXPECT_EQ(engine.encodes, 1);
  EXPECT_EQ(engine.decodes, 7);
  EXPECT_EQ(labels, 1);
  EXPECT_EQ(std::count(image_rows.begin(), image_rows.end(), 1), 802816);
  EXPECT_EQ(std::count(audio_rows.begin(), audio_rows.end(), 1), 1920);
  EXPECT_NEAR(made.video_psnr, 10 * std::log10(1 / 0.25), 1e-6);
  EXPECT_TRUE(std::isinf(made.audio_psnr));
  EXPECT_EQ(made.frames.data<uint8_t>()[0], 128);
  EXPECT_EQ(made.classes.size(), 5U);
}

TEST(Verify, ARandomModelFailsAndSaysWhere) {
  Bundle bundle = plain_bundle(preset("language-perceiver"));
  FakeEngine engine(bundle.spec, [&](const ModelInputs&, const OutputRequest& request) {
    const auto rows = static_cast<int64_t>(request.points.begin()->second.size());
    return ArrayMap{{bundle.spec.outputs[0].name, Array::zeros(DType::kF32, {1, rows, 262})}};
  });
  const std::vector<KnownAnswer> answers = verify_known_answers(bundle, engine, {});
  ASSERT_EQ(answers.size(), 4U);
  EXPECT_EQ(answers[0].result, CheckResult::kPass);  // the parameter count
  EXPECT_EQ(answers[1].result, CheckResult::kFail);
  EXPECT_EQ(answers[2].result, CheckResult::kFail);
  EXPECT_THAT(answers[2].expected, HasSubstr("-10.8609 -10.7651 -10.9187 -12.1689"));
  EXPECT_FALSE(all_pass(answers));
}

TEST(Verify, TheRightAnswersPass) {
  const Bundle bundle = plain_bundle(preset("language-perceiver"));
  const std::string missing = " missing.";
  FakeEngine engine(bundle.spec, [&](const ModelInputs& inputs, const OutputRequest& request) {
    const auto& rows = request.points.begin()->second;
    Array logits = Array::zeros(DType::kF32, {1, static_cast<int64_t>(rows.size()), 262});
    float* value = logits.mutable_data<float>();
    const bool later = inputs.arrays.begin()->second.data<int64_t>()[51] != 3;
    const float first[] = {-10.8609F, -10.7651F, -10.9187F, -12.1689F, -11.9389F,
                           -12.1479F, -12.1518F, -11.9707F, -12.2073F};
    const float second[] = {-11.8336F, -11.6850F, -11.8483F, -12.8149F, -12.5863F,
                            -12.7904F, -12.8440F, -12.6410F, -12.8646F};
    for (size_t i = 0; i < rows.size(); ++i) {
      float* row = value + static_cast<int64_t>(i) * 262;
      if (rows.size() == 9) {
        row[static_cast<unsigned char>(missing[i]) + 6] = 5;
      } else {
        std::copy_n((later ? first : second) + 3 * i, 3, row);
      }
    }
    return ArrayMap{{bundle.spec.outputs[0].name, logits}};
  });
  EXPECT_TRUE(all_pass(verify_known_answers(bundle, engine, {})));
}

TEST(Verify, WithoutThePictureNothingIsVerified) {
  const Bundle bundle = plain_bundle(preset("vision-perceiver-conv"));
  FakeEngine engine(bundle.spec, nullptr);
  const std::vector<KnownAnswer> answers = verify_known_answers(bundle, engine, {});
  EXPECT_EQ(answers.back().result, CheckResult::kSkipped);
  EXPECT_FALSE(all_pass(answers));
  EXPECT_THROW(verify_known_answers(plain_bundle(picture_spec(4, 3)), engine, {}), Error);
}

TEST(TurnPicture, AQuarterTurnMovesTheTopToTheLeft) {
  Array pixels = Array::zeros(DType::kU8, {3, 3, 1});
  pixels.mutable_data<uint8_t>()[1] = 200;  // top middle
  const io::Image turned = turn_picture(io::make_image(pixels), 90);
  EXPECT_EQ(turned.pixels.data<uint8_t>()[3], 200);  // left middle
  EXPECT_EQ(turned.pixels.data<uint8_t>()[1], 0);
}

TEST(AddNoise, IsTheSameEveryTimeAndNothingAtZero) {
  const io::Image grey = flat_picture(4, 4, 100, 100, 100);
  const Array a = add_noise(grey, 0.5, 7).pixels;
  const Array b = add_noise(grey, 0.5, 7).pixels;
  const Array none = add_noise(grey, 0, 7).pixels;
  EXPECT_TRUE(std::equal(a.data<uint8_t>(), a.data<uint8_t>() + a.numel(), b.data<uint8_t>()));
  EXPECT_EQ(none.data<uint8_t>()[5], 100);
  EXPECT_NE(a.data<uint8_t>()[0], a.data<uint8_t>()[1]);
}

TEST(DemoLine, BracesMarkTheHiddenBytes) {
  const DemoLine line = parse_demo_line("a{bc}d{e}");
  EXPECT_EQ(line.original, "abcde");
  EXPECT_THAT(line.hidden, ElementsAre(1, 2, 4));
  for (const char* wrong : {"abc", "a{b", "a}b", "a{{b}}", "a{}b"}) {
    EXPECT_THROW(parse_demo_line(wrong), Error) << wrong;
  }
}

TEST(DemoPage, HoldsEverythingAndEscapesWhatItShows) {
  DemoReport report;
  DemoPicture shown;
  shown.picture = flat_picture(4, 4, 1, 2, 3);
  shown.truth = "7";
  shown.answer.classes = {{7, "7", 0.9, 1}, {1, "<1>", 0.1, 0}};
  shown.answer.seen = shown.picture;
  shown.answer.attention = Array::zeros(DType::kF32, {4, 4});
  report.pictures = {shown};
  DemoLine line = parse_demo_line("a {<b>} c");
  line.filled.masks = {{3, {{66, "<", 0.5}}, 66}, {4, {}, 105}, {5, {}, 68}};
  report.lines = {line};
  const std::string page = demo_page(report);
  EXPECT_THAT(page, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page, HasSubstr("data:image/png;base64,"));
  EXPECT_THAT(page, HasSubstr("&lt;1&gt;"));
  EXPECT_THAT(page, HasSubstr("a <mark class=\"right\">&lt;</mark><mark class=\"other\">c</mark>"));
  EXPECT_THAT(page, HasSubstr("2 of 3 hidden letters"));
  EXPECT_EQ(page.find("http"), std::string::npos) << "the page must need nothing else";
}

}  // namespace
}  // namespace perceiver::tasks
