#include "perceiver/tokens/video_processor.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;

/// Frame t, row y, column x holds 100 t + 10 y + x in its red channel.
Array numbered(int64_t count, int64_t height, int64_t width) {
  Array frames = Array::zeros(DType::kU8, {count, height, width, 3});
  for (int64_t i = 0; i < frames.numel() / 3; ++i) {
    const int64_t x = i % width, y = i / width % height, t = i / (width * height);
    frames.mutable_data<uint8_t>()[3 * i] = static_cast<uint8_t>(100 * t + 10 * y + x);
  }
  return frames;
}

std::vector<float> red(const Array& frames) {
  std::vector<float> values;
  for (int64_t i = 0; i < frames.numel(); i += 3) {
    values.push_back(frames.data<float>()[i] * 255.0F);
  }
  return values;
}

TEST(ProcessVideo, CutsTheCentralSquareOfEachFrame) {
  const Array out = process_video(numbered(2, 2, 6), {.num_frames = 2, .size = 2});
  ASSERT_EQ(out.shape(), (std::vector<int64_t>{2, 2, 2, 3}));
  EXPECT_THAT(red(out), ElementsAre(2, 3, 12, 13, 102, 103, 112, 113));
}

TEST(ProcessVideo, RoundsBothHalvesDownAsTheColab) {
  // 6 / 2 - 3 / 2 = 2, where (6 - 3) / 2 = 1.
  EXPECT_THAT(red(process_video(numbered(1, 3, 6), {.num_frames = 1, .size = 3})),
              ElementsAre(2, 3, 4, 12, 13, 14, 22, 23, 24));
}

TEST(ProcessVideo, ResizesBilinearly) {
  EXPECT_THAT(red(process_video(numbered(1, 4, 4), {.num_frames = 1, .size = 2})),
              ElementsAre(6, 8, 26, 28));
}

TEST(ProcessVideo, ShortClipsAreAnErrorOrRepeatTheLastFrame) {
  const Array clip = numbered(2, 1, 1);
  EXPECT_THROW(process_video(clip, {.num_frames = 3, .size = 1}), Error);
  EXPECT_THAT(red(process_video(clip, {.num_frames = 4, .size = 1, .repeat_last = true})),
              ElementsAre(0, 100, 100, 100));
  EXPECT_EQ(process_video(clip, {.num_frames = 0, .size = 1}).size(0), 2);
  EXPECT_EQ(process_video(clip, {.num_frames = 1, .size = 1}).size(0), 1);
}

TEST(ProcessVideo, RefusesOtherArrays) {
  EXPECT_THROW(process_video(Array::zeros(DType::kU8, {4, 4, 3})), Error);
  EXPECT_THROW(process_video(Array::zeros(DType::kF32, {16, 4, 4, 3})), Error);
}

TEST(FramesToBytes, ClampsAndRounds) {
  const Array out = frames_to_bytes(Array::of<float>({5}, {-1, 0.5F, 1, 9, std::nanf("")}));
  EXPECT_THAT(std::vector<int>(out.data<uint8_t>(), out.data<uint8_t>() + 5),
              ElementsAre(0, 128, 255, 255, 0));
}

}  // namespace
}  // namespace perceiver::tokens
