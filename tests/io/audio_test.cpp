#include "perceiver/io/audio.h"

#include <gmock/gmock.h>

#include "media_fixture.h"
#include "media_samples.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::failure;
using test::from_base64;
using test::sine;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
class AudioTest : public test::MediaTest {};

double largest_difference(const Audio& a, const Audio& b) {
  double worst = 0.0;
  const int64_t count = std::min(a.samples.numel(), b.samples.numel());
  for (int64_t i = 0; i < count; ++i) {
    worst = std::max(worst, std::fabs(static_cast<double>(a.samples.data<float>()[i] -
                                                          b.samples.data<float>()[i])));
  }
  return worst;
}

/// Root of the mean square.
double loudness(const Audio& audio) {
  double sum = 0.0;
  for (int64_t i = 0; i < audio.samples.numel(); ++i) {
    const double value = static_cast<double>(audio.samples.data<float>()[i]);
    sum += value * value;
  }
  return std::sqrt(sum / static_cast<double>(audio.samples.numel()));
}

std::string little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i)));
  }
  return out;
}

/// One channel at 8 kHz of any integer or float format.
std::string wav_of(int format, int bits, const std::string& data) {
  const auto bytes = static_cast<uint64_t>(bits / 8);
  return "RIFF" + little(36 + data.size(), 4) + "WAVEfmt " + little(16, 4) +
         little(static_cast<uint64_t>(format), 2) + little(1, 2) + little(8000, 4) +
         little(8000 * bytes, 4) + little(bytes, 2) + little(static_cast<uint64_t>(bits), 2) +
         "data" + little(data.size(), 4) + data;
}

std::vector<float> values(const Audio& audio) {
  return {audio.samples.data<float>(), audio.samples.data<float>() + audio.samples.numel()};
}

TEST_F(AudioTest, WavRoundTripsInFloatExactlyAndInSixteenBitsToHalfAStep) {
  const Audio written = sine(16000, 1000, 2);
  write_wav(folder_ / "f.wav", written, WavFormat::kFloat32);
  write_wav(folder_ / "i.wav", written);
  const Audio exact = read_audio(folder_ / "f.wav"), rounded = read_audio(folder_ / "i.wav");
  EXPECT_EQ(exact.sample_rate, 16000);
  EXPECT_EQ(exact.samples.shape(), written.samples.shape());
  EXPECT_EQ(largest_difference(exact, written), 0.0);
  EXPECT_LE(largest_difference(rounded, written), 0.5 / 32768.0);
}

TEST_F(AudioTest, SixteenBitWritingClampsAtFullScale) {
  write_wav(folder_ / "a.wav",
            {Array::of<float>({4, 1}, {2.0F, -2.0F, 1.0F, std::nanf("")}), 8000});
  EXPECT_THAT(values(read_audio(folder_ / "a.wav")),
              ElementsAre(32767.0F / 32768.0F, -1.0F, 32767.0F / 32768.0F, 0.0F));
}

TEST_F(AudioTest, EveryWavWidthHasFullScaleOne) {
  EXPECT_THAT(values(read_audio(file("8.wav", wav_of(1, 8, std::string("\x00\x80\xC0", 3))))),
              ElementsAre(-1.0F, 0.0F, 0.5F));
  EXPECT_THAT(values(read_audio(file("16.wav", wav_of(1, 16, std::string("\x00\x80\x00\x40", 4))))),
              ElementsAre(-1.0F, 0.5F));
  EXPECT_THAT(
      values(read_audio(file("24.wav", wav_of(1, 24, std::string("\x00\x00\x80\x00\x00\x40", 6))))),
      ElementsAre(-1.0F, 0.5F));
  EXPECT_THAT(values(read_audio(file(
                  "32.wav", wav_of(1, 32, std::string("\x00\x00\x00\x80\x00\x00\x00\x40", 8))))),
              ElementsAre(-1.0F, 0.5F));
  EXPECT_THAT(values(read_audio(file(
                  "f.wav", wav_of(3, 32, std::string("\x00\x00\x80\xbf\x00\x00\x00\x40", 8))))),
              ElementsAre(-1.0F, 2.0F));
}

TEST_F(AudioTest, ReadsFlacMp3AndVorbis) {
  const Audio wanted = sine(8000, 800, 1);
  const Audio flac = read_audio(file("a.flac", from_base64(test::kFlac)));
  EXPECT_EQ(flac.samples.shape(), (std::vector<int64_t>{800, 1}));
  EXPECT_NEAR(loudness(flac), loudness(wanted), 1e-3);
  const Audio mp3 = read_audio(file("a.mp3", from_base64(test::kMp3)));
  EXPECT_EQ(mp3.length(), 800);  // encoder delay and padding are cut
  EXPECT_NEAR(loudness(mp3), loudness(wanted), 0.03);
  const Audio ogg = read_audio(file("a.ogg", from_base64(test::kOggVorbis)));
  EXPECT_GE(ogg.length(), 800);
  EXPECT_EQ(ogg.sample_rate, 8000);
}

TEST_F(AudioTest, ResamplingKeepsLengthInSecondsAndPitch) {
  const Audio audio = sine(8000, 8000, 1);
  const Audio faster = resample(audio, 48000);
  ASSERT_EQ(faster.sample_rate, 48000);
  EXPECT_NEAR(static_cast<double>(faster.length()), 48000.0, 48.0);
  Audio middle{faster.samples.rows(4800, 43200).clone(), 48000};
  const Audio wanted{sine(48000, 48000, 1).samples.rows(4800, 43200).clone(), 48000};
  EXPECT_LE(largest_difference(middle, wanted), 1e-3);
}

TEST_F(AudioTest, MixesToOneChannelByTheMean) {
  const Audio stereo{Array::of<float>({2, 2}, {1.0F, 0.0F, -0.5F, 0.25F}), 8000};
  EXPECT_THAT(values(resample(stereo, 0, 1)), ElementsAre(0.5F, -0.125F));
  write_wav(folder_ / "s.wav", stereo, WavFormat::kFloat32);
  EXPECT_THAT(values(read_audio(folder_ / "s.wav", {.channels = 1})), ElementsAre(0.5F, -0.125F));
  EXPECT_EQ(resample(sine(8000, 10, 1), 0, 2).channels(), 2);
}

TEST_F(AudioTest, ReadsAPartInSeconds) {
  write_wav(folder_ / "a.wav", sine(8000, 8000, 1), WavFormat::kFloat32);
  const Audio part = read_audio(folder_ / "a.wav", {.start_seconds = 0.25, .max_seconds = 0.5});
  EXPECT_EQ(part.length(), 4000);
  EXPECT_EQ(part.samples.data<float>()[0], sine(8000, 8000, 1).samples.data<float>()[2000]);
  EXPECT_EQ(read_audio(folder_ / "a.wav", {.start_seconds = 5.0}).length(), 0);
}

TEST_F(AudioTest, TruncatedFilesOfEveryFormatAreErrors) {
  const std::string wav = wav_of(1, 16, std::string(2000, 'x'));
  EXPECT_THAT(failure([&] { read_audio(file("cut.wav", wav.substr(0, 1500))); }),
              AllOf(StartsWith("3 "), HasSubstr("cut.wav"), HasSubstr("truncated"),
                    HasSubstr("2044"), HasSubstr("1500")));
  for (const auto base64 : {test::kFlac, test::kMp3, test::kOggVorbis}) {
    const std::string whole = from_base64(base64);
    for (const size_t length :
         {whole.size() - 1, whole.size() * 2 / 3, whole.size() / 3, size_t{5}}) {
      EXPECT_THAT(failure([&] { read_audio(file("cut", whole.substr(0, length))); }),
                  StartsWith("3 "))
          << length;
    }
  }
}

TEST_F(AudioTest, FlippedBytesNeverDoMoreThanFail) {
  for (const auto& whole :
       {from_base64(test::kFlac), from_base64(test::kMp3), wav_of(1, 16, std::string(64, 'x'))}) {
    for (size_t i = 0; i < whole.size(); i += 3) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ 0xFF);
      failure([&] { read_audio(file("flipped", bytes), {.max_values = 1 << 20}); });
    }
  }
}

TEST_F(AudioTest, SaysWhatElseItFound) {
  EXPECT_THAT(failure([&] { read_audio(file("a.wav", "not sound")); }),
              AllOf(StartsWith("3 "), HasSubstr("plain text")));
  EXPECT_THAT(failure([&] { read_audio(file("a.mp3", from_base64(test::kJpegGrey))); }),
              HasSubstr("a JPEG picture"));
  EXPECT_THAT(failure([&] { read_audio(folder_ / "none.wav"); }), StartsWith("5 "));
  // A playlist must not open what it names.
  EXPECT_THAT(failure([&] { read_audio(file("a.m3u8", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n")); }),
              HasSubstr("plain text"));
}

TEST_F(AudioTest, LimitsAndBadOptionsAreErrors) {
  write_wav(folder_ / "a.wav", sine(8000, 8000, 1));
  EXPECT_THAT(failure([&] { read_audio(folder_ / "a.wav", {.max_values = 100}); }),
              HasSubstr("more than 100"));
  EXPECT_THAT(failure([&] { read_audio(folder_ / "a.wav", {.sample_rate = -1}); }),
              StartsWith("1 "));
  EXPECT_THAT(failure([&] { read_audio(folder_ / "a.wav", {.channels = 3}); }), StartsWith("1 "));
  EXPECT_THAT(failure([&] {
                write_wav(folder_ / "b.wav", {Array::zeros(DType::kF32, {3}), 8000});
              }),
              StartsWith("1 "));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(AudioTest, FilmSoundEqualsTheSharedReference) {
  PERCEIVER_SHARED_OR_SKIP(clip, "data/video/ucf101_ApplyEyeMakeup.avi");
  PERCEIVER_SHARED_OR_SKIP(wav, "data/video/ucf101_ApplyEyeMakeup_48k.wav");
  const Audio ours = read_audio(clip, {.sample_rate = 48000}), wanted = read_audio(wav);
  EXPECT_EQ(ours.samples.shape(), wanted.samples.shape());
  EXPECT_LE(largest_difference(ours, wanted), 1.0 / 32768.0);
}

TEST_F(AudioTest, FlacAndVorbisOfOneRecordingAgree) {
  PERCEIVER_SHARED_OR_SKIP(formats, "data/audio/formats");
  const Audio flac = read_audio(formats / "test_audio.flac"),
              ogg = read_audio(formats / "test_audio.ogg");
  EXPECT_EQ(flac.samples.shape(), ogg.samples.shape());
  EXPECT_NEAR(loudness(flac), loudness(ogg), 1e-3);
  EXPECT_EQ(read_audio(formats / "sine_mono_s32_8000.wav").length(), 32000);
}

}  // namespace
}  // namespace perceiver::io
