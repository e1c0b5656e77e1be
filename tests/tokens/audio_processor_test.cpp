#include "perceiver/tokens/audio_processor.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;

std::vector<float> values(const Array& array) {
  return {array.data<float>(), array.data<float>() + array.numel()};
}

TEST(FitAudio, CutsLongAndFillsShortSound) {
  const Array sound = Array::of<float>({3, 2}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(values(fit_audio(sound, 2)), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(values(fit_audio(sound, 3, 2)), ElementsAre(5, 6, 0, 0, 0, 0));
  EXPECT_THAT(values(fit_audio(sound, 1, 9)), ElementsAre(0, 0));
  EXPECT_EQ(fit_audio(sound).size(0), 30720);
}

TEST(FitAudio, RefusesBadRangesAndShapes) {
  const Array sound = Array::zeros(DType::kF32, {3, 1});
  EXPECT_THROW(fit_audio(sound, 0), Error);
  EXPECT_THROW(fit_audio(sound, 1, -1), Error);
  EXPECT_THROW(fit_audio(Array::zeros(DType::kF32, {3}), 1), Error);
  EXPECT_THROW(fit_audio(Array::zeros(DType::kI16, {3, 1}), 1), Error);
}

TEST(Mono, IsTheMean) {
  EXPECT_THAT(values(mono(Array::of<float>({2, 3}, {0, 3, 6, -1, 0, 1}))), ElementsAre(3, 0));
}

TEST(ClampAudio, BoundsAndRemovesNan) {
  EXPECT_THAT(values(clamp_audio(Array::of<float>({4}, {-2, 0.5F, 7, std::nanf("")}))),
              ElementsAre(-1, 0.5F, 1, 0));
}

TEST(AudioWindow, CutsPadsAndNormalises) {
  const Array sound = Array::of<float>({3, 1}, {1, 2, 6});
  EXPECT_EQ(values(audio_window(sound, 1, 2)), (std::vector<float>{2, 6}));
  EXPECT_EQ(values(audio_window(sound, -1, 5)), (std::vector<float>{0, 1, 2, 6, 0}));
  EXPECT_EQ(values(audio_window(sound, 2, 3)), (std::vector<float>{6, 0, 0}));
  EXPECT_EQ(values(audio_window(sound, 9, 2)), (std::vector<float>{0, 0}));
  EXPECT_EQ(values(audio_window(sound, INT64_MIN, 2)), (std::vector<float>{0, 0}));
  const std::vector<float> normal = values(audio_window(sound, -1, 5, true));
  EXPECT_EQ(normal[0], 0);
  EXPECT_NEAR(normal[1], -2 / std::sqrt(14.0 / 3), 1e-5);
  EXPECT_NEAR(normal[3], 3 / std::sqrt(14.0 / 3), 1e-5);
  EXPECT_EQ(values(audio_window(Array::of<float>({2, 1}, {0, 0}), 0, 2, true)),
            (std::vector<float>{0, 0}));
  EXPECT_THROW(audio_window(sound, 0, 0), Error);
}

TEST(AudioWindow, WindowsSpreadFromStartToEnd) {
  EXPECT_EQ(spread_windows(10, 4, 3), (std::vector<int64_t>{0, 3, 6}));
  EXPECT_EQ(spread_windows(10, 4, 1), (std::vector<int64_t>{3}));
  EXPECT_EQ(spread_windows(4, 4, 2), (std::vector<int64_t>{0, 0}));
  EXPECT_EQ(spread_windows(2, 6, 2), (std::vector<int64_t>{-2, -2}));
}

TEST(AudioProcessorConfig, ReadsWhatFeatureExtractorsWrite) {
  const auto read = [](const char* text) {
    return audio_processor_config_from_json(Json::parse(text), "p.json");
  };
  const AudioProcessorConfig config = read(
      R"({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
          "sampling_rate": 16000, "padding_value": 0.0, "do_normalize": true})");
  EXPECT_EQ(config.sampling_rate, 16000);
  EXPECT_TRUE(config.do_normalize);
  EXPECT_THROW(read(R"({"sampling_rate": 0})"), Error);
  EXPECT_THROW(read(R"({"sampling_rate": "16000"})"), Error);
  EXPECT_THROW(read(R"({"feature_size": 80})"), Error);
  EXPECT_THROW(read(R"({"sampling_rates": 16000})"), Error);
  EXPECT_THROW(read("[]"), Error);
}

}  // namespace
}  // namespace perceiver::tokens
