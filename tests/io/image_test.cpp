#include "perceiver/io/image.h"

#include <cstdlib>
#include <cstring>

#include <gmock/gmock.h>

#include "media_fixture.h"
#include "media_samples.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::failure;
using test::from_base64;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
class ImageTest : public test::MediaTest {};

std::vector<int> pixel(const Image& image, int64_t y, int64_t x) {
  std::vector<int> values;
  for (int64_t c = 0; c < image.channels(); ++c) {
    const int64_t i = (y * image.width() + x) * image.channels() + c;
    values.push_back(image.pixels.dtype() == DType::kU8 ? image.pixels.data<uint8_t>()[i]
                                                        : image.pixels.data<uint16_t>()[i]);
  }
  return values;
}

/// Largest difference of RGB pixels at (0,0), (5,9), (3,4), (2,7) from PIL's.
int distance(const Image& image, const std::vector<std::vector<int>>& wanted) {
  const std::vector<std::pair<int, int>> places = {{0, 0}, {5, 9}, {3, 4}, {2, 7}};
  int worst = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    const std::vector<int> got = pixel(image, places[i].first, places[i].second);
    for (size_t c = 0; c < 3; ++c) {
      worst = std::max(worst, std::abs(got[c] - wanted[i][c]));
    }
  }
  return worst;
}

Image sample(std::string_view base64, const ReadImageOptions& options = {}) {
  return decode_image(from_base64(base64), "sample", options);
}

/// [H, W, C] whose value at i is i * step, wrapping.
Image ramp(DType dtype, int64_t height, int64_t width, int64_t channels, int step) {
  Array pixels = Array::zeros(dtype, {height, width, channels});
  for (int64_t i = 0; i < pixels.numel(); ++i) {
    if (dtype == DType::kU8) {
      pixels.mutable_data<uint8_t>()[i] = static_cast<uint8_t>(i * step);
    } else {
      pixels.mutable_data<uint16_t>()[i] = static_cast<uint16_t>(i * step);
    }
  }
  return make_image(pixels);
}

TEST_F(ImageTest, PngRoundTripsEveryChannelCountAndDepth) {
  for (const DType dtype : {DType::kU8, DType::kU16}) {
    for (int64_t channels = 1; channels <= 4; ++channels) {
      const Image written = ramp(dtype, 5, 7, channels, dtype == DType::kU8 ? 3 : 771);
      const Image read = decode_image(encode_png(written), "memory");
      ASSERT_EQ(read.pixels.shape(), written.pixels.shape());
      ASSERT_EQ(read.pixels.dtype(), dtype);
      EXPECT_EQ(read.color, written.color);
      EXPECT_EQ(std::memcmp(read.pixels.bytes(), written.pixels.bytes(),
                            static_cast<size_t>(written.pixels.nbytes())),
                0)
          << dtype_name(dtype) << " x " << channels;
    }
  }
}

TEST_F(ImageTest, ReadsInterlacedPng) {
  const Image image = sample(test::kPngInterlaced);
  for (int64_t y = 0; y < 6; ++y) {
    for (int64_t x = 0; x < 10; ++x) {
      ASSERT_THAT(pixel(image, y, x), ElementsAre(20 * y + x));
    }
  }
}

TEST_F(ImageTest, PaletteWithTransparencyBecomesRgba) {
  const Image image = sample(test::kPngPalette);
  EXPECT_EQ(image.color, ColorModel::kRgba);
  EXPECT_THAT(pixel(image, 0, 0), ElementsAre(255, 0, 0, 255));
  EXPECT_THAT(pixel(image, 0, 1), ElementsAre(0, 255, 0, 128));
  EXPECT_THAT(pixel(image, 1, 0), ElementsAre(9, 8, 7, 255));
  EXPECT_THAT(pixel(to_rgb(image), 0, 1), ElementsAre(0, 255, 0));
}

TEST_F(ImageTest, OneBitGreyIsBlackAndWhite) {
  const Image image = sample(test::kPngOneBit);
  ASSERT_EQ(image.pixels.shape(), (std::vector<int64_t>{2, 3, 1}));
  EXPECT_THAT(pixel(image, 0, 0), ElementsAre(255));
  EXPECT_THAT(pixel(image, 0, 1), ElementsAre(0));
  EXPECT_THAT(pixel(image, 1, 1), ElementsAre(255));
}

TEST_F(ImageTest, JpegComesOutAsPilReadsIt) {
  // Two levels: the inverse DCT rounds differently; chroma and colour must not add to it.
  EXPECT_LE(distance(sample(test::kJpeg420),
                     {{0, 10, 158}, {225, 184, 128}, {100, 119, 162}, {180, 80, 118}}),
            2);
  EXPECT_LE(distance(sample(test::kJpegProgressive422),
                     {{9, 0, 181}, {214, 194, 105}, {91, 125, 152}, {180, 79, 119}}),
            2);
  EXPECT_LE(distance(sample(test::kJpegRgb),
                     {{0, 1, 199}, {224, 197, 95}, {98, 116, 152}, {175, 80, 116}}),
            1);
  EXPECT_LE(distance(to_rgb(sample(test::kJpegGrey)),
                     {{23, 23, 23}, {190, 190, 190}, {118, 118, 118}, {114, 114, 114}}),
            1);
}

TEST_F(ImageTest, CmykJpegIsReadAsInkAndConverted) {
  const Image inks = sample(test::kJpegCmyk);
  EXPECT_EQ(inks.color, ColorModel::kCmyk);
  EXPECT_LE(std::abs(pixel(inks, 0, 0)[0] - 255), 1);  // no red: full cyan
  EXPECT_LE(pixel(inks, 0, 0)[3], 1);                  // PIL's CMYK uses no black
  EXPECT_LE(distance(to_rgb(inks), {{0, 1, 199}, {224, 197, 95}, {98, 116, 152}, {175, 80, 116}}),
            2);
  EXPECT_THAT(failure([&] { encode_png(inks); }), StartsWith("1 "));
}

TEST_F(ImageTest, ExifOrientationIsAppliedUnlessRefused) {
  const Image upright = sample(test::kJpegTurned);
  const Image stored = sample(test::kJpegTurned, {.apply_orientation = false});
  ASSERT_EQ(upright.pixels.shape(), (std::vector<int64_t>{10, 6, 3}));
  ASSERT_EQ(stored.pixels.shape(), (std::vector<int64_t>{6, 10, 3}));
  // Orientation 6: the stored top left corner is shown at the top right.
  EXPECT_EQ(pixel(upright, 0, 5), pixel(stored, 0, 0));
  EXPECT_EQ(pixel(upright, 9, 5), pixel(stored, 0, 9));
  EXPECT_EQ(pixel(upright, 0, 0), pixel(stored, 5, 0));
}

TEST_F(ImageTest, SixteenBitsKeepTheHighByte) {
  const Image image = make_image(Array::of<uint16_t>({1, 2, 1}, {0x12FF, 0xFF00}));
  EXPECT_THAT(pixel(to_8_bit(image), 0, 0), ElementsAre(0x12));
  EXPECT_THAT(pixel(to_rgb(image), 0, 1), ElementsAre(255, 255, 255));
}

TEST_F(ImageTest, CmykFormulaRoundsAsPil) {
  const Image inks{Array::of<uint8_t>({1, 2, 4}, {10, 200, 0, 30, 255, 0, 128, 255}),
                   ColorModel::kCmyk};
  EXPECT_THAT(pixel(to_rgb(inks), 0, 0), ElementsAre(216, 49, 225));
  EXPECT_THAT(pixel(to_rgb(inks), 0, 1), ElementsAre(0, 0, 0));
}

TEST_F(ImageTest, GreyIsTheLightnessAndKeepsAGreyPicture) {
  const Image colour = make_image(Array::of<uint8_t>({1, 2, 3}, {255, 255, 255, 200, 100, 0}));
  EXPECT_THAT(pixel(to_grey(colour), 0, 0), ElementsAre(255));
  EXPECT_THAT(pixel(to_grey(colour), 0, 1),
              ElementsAre(118));  // (19595 R + 38470 G) / 65536, rounded
  const Image with_alpha = make_image(Array::of<uint8_t>({1, 1, 2}, {77, 3}));
  EXPECT_THAT(pixel(to_grey(with_alpha), 0, 0), ElementsAre(77));
  EXPECT_THAT(pixel(to_grey(make_image(Array::of<uint16_t>({1, 1, 1}, {0x12FF}))), 0, 0),
              ElementsAre(0x12));
}

TEST_F(ImageTest, ReadsPgmAndPpm) {
  EXPECT_THAT(pixel(decode_image("P6\n# a\n2 1\n255\nabcdef", "m"), 0, 1),
              ElementsAre('d', 'e', 'f'));
  EXPECT_THAT(pixel(decode_image(std::string("P5 1 1 65535 ") + "\x12\x34", "m"), 0, 0),
              ElementsAre(0x1234));
  EXPECT_THAT(pixel(decode_image("P5 1 1 1 \x01", "m"), 0, 0), ElementsAre(255));
}

TEST_F(ImageTest, ContentDecidesNotTheName) {
  EXPECT_EQ(read_image(file("photo.png", from_base64(test::kJpeg420))).width(), 10);
  const std::string text = failure([&] { read_image(file("fake.png", "hello\n")); });
  EXPECT_THAT(text, AllOf(StartsWith("3 "), HasSubstr("fake.png"), HasSubstr("plain text")));
  EXPECT_THAT(failure([&] { read_image(file("x.jpg", "GIF89a....")); }),
              AllOf(StartsWith("4 "), HasSubstr("GIF")));
  EXPECT_THAT(failure([&] { read_image(file("e.png", "")); }), HasSubstr("an empty file"));
  EXPECT_THAT(failure([&] { read_image(folder_ / "none.png"); }), StartsWith("5 "));
}

TEST_F(ImageTest, EveryTruncationIsOneError) {
  for (const auto base64 :
       {test::kJpeg420, test::kJpegProgressive422, test::kPngInterlaced, test::kPngPalette}) {
    const std::string whole = from_base64(base64);
    for (size_t length = 0; length < whole.size(); ++length) {
      const std::string text = failure([&] { decode_image(whole.substr(0, length), "cut"); });
      ASSERT_THAT(text, AnyOf(StartsWith("3 cut:"), StartsWith("4 cut:"))) << length;
      ASSERT_EQ(text.find('\n'), std::string::npos);
    }
  }
}

TEST_F(ImageTest, FlippedBytesNeverDoMoreThanFail) {
  for (const auto base64 :
       {test::kJpeg420, test::kJpegProgressive422, test::kJpegCmyk, test::kJpegTurned,
        test::kPngInterlaced, test::kPngPalette, test::kPngOneBit}) {
    const std::string whole = from_base64(base64);
    for (size_t i = 0; i < whole.size(); ++i) {
      for (const int flip : {0x01, 0x80, 0xFF}) {
        std::string bytes = whole;
        bytes[i] = static_cast<char>(bytes[i] ^ flip);
        ReadImageOptions options;
        options.limits.max_pixels = 1 << 16;
        failure([&] { decode_image(bytes, "flipped", options); });
      }
    }
  }
}

TEST_F(ImageTest, WrongPngChecksumIsNamed) {
  std::string bytes = encode_png(ramp(DType::kU8, 4, 4, 3, 5));
  bytes[bytes.find("IDAT") + 6] ^= 1;
  EXPECT_THAT(failure([&] { decode_image(bytes, "p"); }), HasSubstr("checksum of its IDAT"));
}

TEST_F(ImageTest, PngDataShorterThanThePictureIsAnError) {
  // Same data under a header that promises more rows: checksums are right, rows are missing.
  const std::string small = encode_png(ramp(DType::kU8, 4, 4, 1, 5));
  std::string tall = encode_png(ramp(DType::kU8, 40, 4, 1, 5));
  const size_t data = tall.find("IDAT") - 4;
  tall = tall.substr(0, data) + small.substr(small.find("IDAT") - 4);
  EXPECT_THAT(failure([&] { decode_image(tall, "p"); }), StartsWith("3 p:"));
}

/// A PNG header alone, with a right checksum, then `rest`.
std::string bomb(uint32_t width, uint32_t height) {
  std::string bytes = encode_png(ramp(DType::kU8, 1, 1, 3, 1));
  // The encoder's header of a 1x1 picture, its sides replaced; the checksum is then wrong, but the
  // sides are refused before it is looked at.
  for (int i = 0; i < 4; ++i) {
    bytes[16 + static_cast<size_t>(i)] = static_cast<char>(width >> (24 - 8 * i));
    bytes[20 + static_cast<size_t>(i)] = static_cast<char>(height >> (24 - 8 * i));
  }
  return bytes;
}

TEST_F(ImageTest, DimensionBombsAreRefusedFromTheHeader) {
  EXPECT_THAT(failure([&] { decode_image(bomb(60000, 60000), "b"); }),
              AllOf(StartsWith("3 b:"), HasSubstr("60000x60000"), HasSubstr("limit")));
  EXPECT_THAT(failure([&] { decode_image(bomb(70000, 1), "b"); }), HasSubstr("limit"));
  EXPECT_THAT(failure([&] { decode_image(bomb(0, 5), "b"); }), StartsWith("3 b:"));
  ReadImageOptions small;
  small.limits.max_pixels = 59;
  EXPECT_THAT(failure([&] { sample(test::kJpeg420, small); }), HasSubstr("10x6 pixels is over"));
  EXPECT_THAT(failure([&] { decode_image("P6 65000 65000 255 ", "b"); }), HasSubstr("limit"));
}

TEST_F(ImageTest, WritesWholeOrNotAtAll) {
  const Image image = ramp(DType::kU8, 3, 3, 3, 9);
  write_png(folder_ / "a.png", image);
  EXPECT_EQ(contents(folder_ / "a.png"), encode_png(image));
  EXPECT_THAT(failure([&] { write_png(folder_ / "no" / "a.png", image); }), StartsWith("5 "));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(ImageTest, OtherArraysAreNoPictures) {
  EXPECT_THAT(failure([] { make_image(Array::zeros(DType::kF32, {2, 2, 3})); }), StartsWith("2 "));
  EXPECT_THAT(failure([] { make_image(Array::zeros(DType::kU8, {2, 2, 5})); }), StartsWith("2 "));
  EXPECT_THAT(failure([] { make_image(Array::zeros(DType::kU8, {0, 2, 3})); }), StartsWith("2 "));
}

TEST_F(ImageTest, ReadsTheSharedPhotographs) {
  PERCEIVER_SHARED_OR_SKIP(photos, "data/vision/photos");
  EXPECT_EQ(read_image(photos / "astronaut.png").pixels.shape(),
            (std::vector<int64_t>{512, 512, 3}));
  EXPECT_EQ(read_image(photos / "camera.png").color, ColorModel::kGrey);
  EXPECT_EQ(read_image(photos / "dalmation.jpg").channels(), 3);
}

}  // namespace
}  // namespace perceiver::io
