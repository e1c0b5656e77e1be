#include "perceiver/tokens/audio_processor.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace perceiver::tokens
