#include "perceiver/io/video.h"

#include <cstring>

#include <gmock/gmock.h>

#include "media_fixture.h"
#include "perceiver/io/image.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::failure;
using test::sine;
using ::testing::HasSubstr;
using ::testing::StartsWith;
class VideoTest : public test::MediaTest {};

/// Frames of one colour each, growing brighter, with a red left half.
Array film(int64_t count, int64_t height, int64_t width) {
  Array frames = Array::zeros(DType::kU8, {count, height, width, 3});
  uint8_t* out = frames.mutable_data<uint8_t>();
  for (int64_t i = 0; i < frames.numel() / 3; ++i) {
    const int64_t t = i / (height * width), x = i % width;
    const auto level = static_cast<uint8_t>(40 + 20 * t);
    out[3 * i] = x < width / 2 ? 200 : level;
    out[3 * i + 1] = level;
    out[3 * i + 2] = level;
  }
  return frames;
}

int value_at(const Array& frames, int64_t t, int64_t y, int64_t x, int64_t c) {
  return frames.data<uint8_t>()[((t * frames.size(1) + y) * frames.size(2) + x) * 3 + c];
}

TEST_F(VideoTest, Mp4RoundTripsWithSound) {
  const Array frames = film(8, 48, 64);
  write_mp4(folder_ / "a.mp4", frames, 25.0, sine(48000, 15360, 2));
  const Video video = read_video(folder_ / "a.mp4");
  ASSERT_EQ(video.frames.shape(), frames.shape());
  EXPECT_NEAR(video.info.frames_per_second, 25.0, 1e-9);
  EXPECT_EQ(video.info.num_frames, 8);
  EXPECT_TRUE(video.info.has_audio);
  EXPECT_NEAR(video.seconds[3], 3.0 / 25.0, 1e-6);
  for (int64_t t = 0; t < 8; ++t) {
    EXPECT_NEAR(value_at(video.frames, t, 24, 48, 0), 40 + 20 * t, 4);
    EXPECT_NEAR(value_at(video.frames, t, 24, 16, 0), 200, 6);
  }
  const Audio sound = read_audio(folder_ / "a.mp4");
  EXPECT_EQ(sound.sample_rate, 48000);
  EXPECT_EQ(sound.channels(), 2);
  EXPECT_NEAR(sound.seconds(), 0.32, 0.03);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(VideoTest, OddSidesAreRepeatedToEven) {
  write_mp4(folder_ / "a.mp4", film(2, 33, 47), 30000.0 / 1001.0);
  const VideoInfo info = probe_video(folder_ / "a.mp4");
  EXPECT_EQ(info.width, 48);
  EXPECT_EQ(info.height, 34);
  EXPECT_NEAR(info.frames_per_second, 29.97, 0.001);
  EXPECT_FALSE(info.has_audio);
  EXPECT_THAT(failure([&] { read_audio(folder_ / "a.mp4"); }), HasSubstr("holds no sound"));
}

TEST_F(VideoTest, StartStepAndMaximumChooseFrames) {
  write_mp4(folder_ / "a.mp4", film(10, 32, 32), 10.0);
  const Video part =
      read_video(folder_ / "a.mp4", {.start_seconds = 0.3, .max_frames = 3, .frame_step = 2});
  ASSERT_EQ(part.seconds.size(), 3u);
  EXPECT_NEAR(part.seconds[0], 0.3, 1e-6);
  EXPECT_NEAR(part.seconds[2], 0.7, 1e-6);
  EXPECT_NEAR(value_at(part.frames, 0, 16, 24, 1), 100, 4);
  EXPECT_THAT(failure([&] { read_video(folder_ / "a.mp4", {.start_seconds = 99.0}); }),
              HasSubstr("no frame"));
  EXPECT_THAT(failure([&] { read_video(folder_ / "a.mp4", {.frame_step = 0}); }), StartsWith("1 "));
}

TEST_F(VideoTest, ReaderGivesFramesOneByOne) {
  write_mp4(folder_ / "a.mp4", film(5, 32, 32), 10.0);
  VideoReader reader(folder_ / "a.mp4");
  int count = 0;
  while (const auto frame = reader.next()) {
    EXPECT_EQ(frame->pixels.shape(), (std::vector<int64_t>{32, 32, 3}));
    EXPECT_NEAR(frame->seconds, count * 0.1, 1e-6);
    ++count;
  }
  EXPECT_EQ(count, 5);
  EXPECT_FALSE(reader.next().has_value());
}

TEST_F(VideoTest, TruncatedAndDamagedFilmsAreErrors) {
  write_mp4(folder_ / "a.mp4", film(5, 32, 32), 10.0);
  const std::string whole = contents(folder_ / "a.mp4");
  for (const size_t length : {whole.size() - 1, whole.size() / 2, size_t{40}, size_t{9}}) {
    EXPECT_THAT(failure([&] { read_video(file("cut.mp4", whole.substr(0, length))); }),
                StartsWith("3 "))
        << length;
  }
  for (size_t i = 0; i < whole.size(); i += 7) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0xFF);
    failure([&] {
      read_video(file("flipped.mp4", bytes), {.max_frames = 8, .limits = {1 << 16, 1 << 20}});
    });
  }
}

TEST_F(VideoTest, SaysWhatElseItFoundAndKeepsLimits) {
  EXPECT_THAT(failure([&] { probe_video(file("a.mp4", "text")); }), HasSubstr("plain text"));
  EXPECT_THAT(failure([&] { probe_video(file("a.mkv", "\x1a\x45\xdf\xa3")); }),
              AllOf(StartsWith("4 "), HasSubstr("Matroska")));
  write_mp4(folder_ / "b.mp4", film(5, 32, 32), 10.0);
  EXPECT_THAT(failure([&] {
                read_video(folder_ / "b.mp4", {.limits = {1023, 1 << 20}});
              }),
              HasSubstr("limit"));
  EXPECT_THAT(failure([&] {
                read_video(folder_ / "b.mp4", {.limits = {1024, 4000}});
              }),
              HasSubstr("more than 4000"));
}

TEST_F(VideoTest, RefusesWhatIsNoFilmAndLeavesNothing) {
  EXPECT_THAT(failure([&] {
                write_mp4(folder_ / "a.mp4", Array::zeros(DType::kU8, {0, 4, 4, 3}), 25.0);
              }),
              StartsWith("2 "));
  EXPECT_THAT(failure([&] { write_mp4(folder_ / "a.mp4", film(1, 8, 8), 0.0); }), StartsWith("1 "));
  EXPECT_THAT(
      failure([&] { write_mp4(folder_ / "a.mp4", film(1, 32, 32), 25.0, sine(8000, 100, 3)); }),
      StartsWith("2 "));
  EXPECT_THAT(failure([&] { write_mp4(folder_ / "no" / "a.mp4", film(1, 32, 32), 25.0); }),
              StartsWith("5 "));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(VideoTest, EqualsTorchcodecsReferenceFrames) {
  PERCEIVER_SHARED_OR_SKIP(folder, "data/video");
  const std::string name = "nasa_13013.mp4";
  for (const auto& [start, png] :
       {std::pair{0.0, ".stream3.frame000000.png"}, {1.1678, ".stream3.frame000035.png"}}) {
    const Video video = read_video(folder / name, {.start_seconds = start, .max_frames = 1});
    const Image wanted = to_rgb(read_image(folder / (name + png)));
    ASSERT_EQ(video.frames.numel(), wanted.pixels.numel());
    EXPECT_EQ(std::memcmp(video.frames.bytes(), wanted.pixels.bytes(),
                          static_cast<size_t>(wanted.pixels.nbytes())),
              0);
  }
}

TEST_F(VideoTest, ReadsEveryFrameOfTheSharedClips) {
  PERCEIVER_SHARED_OR_SKIP(folder, "data/video");
  int count = 0;
  for (VideoReader reader(folder / "ucf101_ApplyEyeMakeup.avi"); reader.next(); ++count) {
  }
  EXPECT_EQ(count, 164);
  EXPECT_EQ(read_video(folder / "realshort.mp4").frames.shape(),
            (std::vector<int64_t>{36, 240, 320, 3}));
}

}  // namespace
}  // namespace perceiver::io
