#include <algorithm>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "train/data/picture_crop.h"
#include "train/data/picture_mix.h"
#include "train/data/picture_ops.h"
#include "train/data/picture_preparer.h"
#include "train/data/rand_augment.h"

namespace perceiver::train {
namespace {

Array grey(std::vector<int64_t> size, const std::vector<uint8_t>& values) {
  size.push_back(1);
  return Array::of<uint8_t>(size, values);
}

std::vector<int> values_of(const Array& array) {
  const uint8_t* bytes = array.data<uint8_t>();
  return {bytes, bytes + array.numel()};
}

std::vector<int> changed(PictureOp op, const Array& picture, double amount) {
  return values_of(apply(op, picture, {amount, 0, 0}));
}

using Values = std::vector<int>;

TEST(RandomCrop, BoxesLieInsideAndKeepAreaAndAspect) {
  const RandomCropSpec spec;
  double smallest = 1;
  double largest = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    Random random{i};
    const CropBox box = draw_crop(spec, 90, 120, random);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 90);
    ASSERT_LE(box.left + box.width, 120);
    const double aspect = static_cast<double>(box.width) / static_cast<double>(box.height);
    ASSERT_NEAR(std::log(aspect), 0, std::log(4.0 / 3) + 0.05);
    const double area = static_cast<double>(box.width * box.height) / (90 * 120);
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
  }
  EXPECT_LT(smallest, 0.1);
  EXPECT_GE(smallest, 0.07);
  EXPECT_GT(largest, 0.9);
}

TEST(RandomCrop, ABoxThatNeverFitsIsTheWholePicture) {
  Random random{1};
  EXPECT_EQ(draw_crop({.min_area = 0.9}, 10, 200, random), (CropBox{0, 0, 10, 200}));
  EXPECT_EQ(draw_crop({}, 1, 1, random), (CropBox{0, 0, 1, 1}));
}

TEST(RandomCrop, CropsMirrorsAndShifts) {
  const Array picture = grey({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(values_of(crop(picture, {1, 1, 2, 2})), (Values{5, 6, 8, 9}));
  EXPECT_EQ(values_of(mirrored(picture)), (Values{3, 2, 1, 6, 5, 4, 9, 8, 7}));
  const Array colours = Array::of<uint8_t>({1, 2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(values_of(mirrored(colours)), (Values{4, 5, 6, 1, 2, 3}));
  std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8, 9};
  shift(3, 3, 1, 1, -1, values.data());
  EXPECT_EQ(values, (std::vector<float>{0, 0, 0, 2, 3, 0, 5, 6, 0}));
}

TEST(PictureOps, ChangeLevels) {
  const Array picture = grey({1, 4}, {10, 60, 130, 210});
  EXPECT_EQ(changed(PictureOp::kInvert, picture, 0), (Values{245, 195, 125, 45}));
  EXPECT_EQ(changed(PictureOp::kPosterize, picture, 2), (Values{0, 0, 128, 192}));
  EXPECT_EQ(changed(PictureOp::kPosterize, picture, 0), (Values{0, 0, 0, 0}));
  EXPECT_EQ(changed(PictureOp::kSolarize, picture, 128), (Values{10, 60, 125, 45}));
  EXPECT_EQ(changed(PictureOp::kSolarize, picture, 256), (Values{10, 60, 130, 210}));
  EXPECT_EQ(changed(PictureOp::kSolarizeAdd, picture, 55), (Values{65, 115, 130, 210}));
  EXPECT_EQ(changed(PictureOp::kBrightness, picture, 0.5), (Values{5, 30, 65, 105}));
  EXPECT_EQ(changed(PictureOp::kBrightness, picture, 1.9), (Values{19, 114, 247, 255}));
  EXPECT_EQ(changed(PictureOp::kAutoContrast, picture, 0), (Values{0, 63, 153, 255}));
  // the mean is 102.5, rounded to 103
  EXPECT_EQ(changed(PictureOp::kContrast, picture, 0), (Values{103, 103, 103, 103}));
  EXPECT_EQ(changed(PictureOp::kContrast, picture, 1), (Values{10, 60, 130, 210}));
  const Array flat = grey({2, 2}, {7, 7, 7, 7});
  EXPECT_EQ(changed(PictureOp::kAutoContrast, flat, 0), (Values{7, 7, 7, 7}));
  EXPECT_EQ(changed(PictureOp::kEqualize, flat, 0), (Values{7, 7, 7, 7}));
}

TEST(PictureOps, EqualizeSpreadsLevelsEvenly) {
  std::vector<uint8_t> values;
  for (int i = 0; i < 4 * 512; ++i) {
    values.push_back(static_cast<uint8_t>(100 + i / 512));
  }
  const Values equal = changed(PictureOp::kEqualize, grey({32, 64}, values), 0);
  EXPECT_EQ(equal[0], 0);
  EXPECT_NEAR(equal[512], 85, 1);
  EXPECT_NEAR(equal[1024], 170, 1);
  EXPECT_EQ(equal[1536], 255);
}

TEST(PictureOps, ColorMovesTowardsAndAwayFromGrey) {
  const Array red = Array::of<uint8_t>({1, 1, 3}, {200, 100, 0});
  const int light = 118;  // 0.2989 * 200 + 0.587 * 100
  EXPECT_EQ(changed(PictureOp::kColor, red, 0), (Values{light, light, light}));
  EXPECT_EQ(changed(PictureOp::kColor, red, 1), (Values{200, 100, 0}));
  EXPECT_EQ(changed(PictureOp::kColor, red, 0.5), (Values{159, 109, 59}));
  EXPECT_EQ(changed(PictureOp::kColor, red, 1.5), (Values{241, 91, 0}));
}

TEST(PictureOps, SharpnessBlursInsideAndKeepsTheBorder) {
  const Array dot = grey({3, 3}, {0, 0, 0, 0, 130, 0, 0, 0, 0});
  EXPECT_EQ(changed(PictureOp::kSharpness, dot, 0), (Values{0, 0, 0, 0, 50, 0, 0, 0, 0}));
  EXPECT_EQ(changed(PictureOp::kSharpness, dot, 1), values_of(dot));
  EXPECT_EQ(changed(PictureOp::kSharpness, dot, 1.5)[4], 170);
}

TEST(PictureOps, GeometryFillsWithGrey) {
  const Array picture = grey({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(changed(PictureOp::kTranslateX, picture, 1), (Values{128, 1, 2, 128, 4, 5, 128, 7, 8}));
  EXPECT_EQ(changed(PictureOp::kTranslateY, picture, -2),
            (Values{7, 8, 9, 128, 128, 128, 128, 128, 128}));
  EXPECT_EQ(changed(PictureOp::kShearX, picture, 1), (Values{1, 2, 3, 5, 6, 128, 9, 128, 128}));
  EXPECT_EQ(changed(PictureOp::kShearY, picture, 1), (Values{1, 5, 9, 4, 8, 128, 7, 128, 128}));
  EXPECT_EQ(changed(PictureOp::kRotate, picture, 90), (Values{3, 6, 9, 2, 5, 8, 1, 4, 7}));
  EXPECT_EQ(changed(PictureOp::kRotate, picture, 0), values_of(picture));
  EXPECT_EQ(values_of(apply(PictureOp::kCutout, picture, {1, 0, 2})),
            (Values{1, 128, 128, 4, 5, 6, 7, 8, 9}));
}

TEST(RandAugment, StrengthFollowsTheMagnitude) {
  const RandAugmentSpec spec{.layers = 4, .magnitude = 5};
  EXPECT_EQ(amount_of(PictureOp::kRotate, spec), 15);
  EXPECT_EQ(amount_of(PictureOp::kPosterize, spec), 2);
  EXPECT_EQ(amount_of(PictureOp::kSolarize, spec), 128);
  EXPECT_EQ(amount_of(PictureOp::kSolarizeAdd, spec), 55);
  EXPECT_EQ(amount_of(PictureOp::kColor, spec), 1);
  EXPECT_EQ(amount_of(PictureOp::kShearX, spec), 0.15);
  EXPECT_EQ(amount_of(PictureOp::kTranslateY, spec), 50);
  EXPECT_EQ(amount_of(PictureOp::kCutout, spec), 20);
}

TEST(RandAugment, IsAFunctionOfItsStreamAndKeepsTheSize) {
  std::vector<uint8_t> values(20 * 30 * 3);
  std::iota(values.begin(), values.end(), uint8_t{0});
  const Array picture = Array::of<uint8_t>({20, 30, 3}, values);
  const RandAugmentSpec spec{.layers = 4, .magnitude = 7, .translation = 10, .cutout = 4};
  int different = 0;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    Random one{seed};
    Random same{seed};
    const Array first = rand_augment(spec, picture, one);
    ASSERT_EQ(first.shape(), picture.shape());
    ASSERT_EQ(values_of(first), values_of(rand_augment(spec, picture, same)));
    different += values_of(first) != values_of(picture);
  }
  EXPECT_GT(different, 60);
  EXPECT_EQ(values_of(picture)[5], 5);  // the original stays as it was
}

TEST(PictureMix, BetaHasItsMeanAndDeviation) {
  for (const double alpha : {0.001, 0.2, 1.0, 4.0}) {
    double sum = 0;
    double squares = 0;
    constexpr int kDraws = 4000;
    for (uint64_t i = 0; i < kDraws; ++i) {
      Random random{7, i};
      const double value = draw_beta(alpha, random);
      ASSERT_GE(value, 0);
      ASSERT_LE(value, 1);
      sum += value;
      squares += (value - 0.5) * (value - 0.5);
    }
    EXPECT_NEAR(sum / kDraws, 0.5, 0.03) << alpha;
    EXPECT_NEAR(squares / kDraws, 1 / (4 * (2 * alpha + 1)), 0.01) << alpha;
  }
}

TEST(PictureMix, HalfOfTheExamplesAreMixedHalfAreCut) {
  const PictureSize size{8, 8, 1};
  const PictureMixSpec both{.mixup_alpha = 0.2, .cutmix = true};
  for (int64_t example = 0; example < 20; ++example) {
    Random random{3, static_cast<uint64_t>(example)};
    EXPECT_EQ(draw_mix(both, size, example, random).is_cut, example % 2 == 1);
    EXPECT_TRUE(draw_mix({0, true}, size, example, random).is_cut);
    EXPECT_FALSE(draw_mix({0.2, false}, size, example, random).is_cut);
  }
}

TEST(PictureMix, TheWeightOfACutIsTheShareThatStays) {
  const PictureSize size{10, 6, 2};
  double sum = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    Random random{i};
    const PictureMix drawn = draw_mix({0, true}, size, 0, random);
    std::vector<float> first(120, 1);
    const std::vector<float> second(120, 0);
    mix(drawn, size, second.data(), first.data());
    const double left = std::accumulate(first.begin(), first.end(), 0.0) / 120;
    ASSERT_NEAR(left, drawn.weight, 1e-6);
    sum += left;
  }
  EXPECT_GT(sum / 500, 0.5);  // half the area is asked for; what sticks out is cut off
  EXPECT_LT(sum / 500, 0.75);
}

TEST(PictureMix, MixUpIsAWeightedMean) {
  std::vector<float> first{100, 0};
  const std::vector<float> second{0, 40};
  mix({.weight = 0.75}, {1, 2, 1}, second.data(), first.data());
  EXPECT_EQ(first, (std::vector<float>{75, 10}));
}

tokens::ImageProcessorConfig config(int64_t size, int64_t crop_size) {
  tokens::ImageProcessorConfig made;
  made.size = {size, size};
  made.crop_size = {crop_size, crop_size};
  return made;
}

TEST(PicturePreparer, TestPicturesAreCroppedAndResizedAsTheProcessorSays) {
  std::vector<uint8_t> values(16 * 16);
  std::iota(values.begin(), values.end(), uint8_t{0});
  const Array picture = grey({16, 16}, values);
  const PicturePreparer preparer({8, 8, 1}, config(8, 16), false);
  std::vector<float> out(64);
  preparer.for_evaluation(picture, out.data());  // the middle 8 x 8, which needs no resize
  EXPECT_EQ(out[0], 4 * 16 + 4);
  EXPECT_EQ(out[63], 11 * 16 + 11);
  const PicturePreparer same({16, 16, 1}, config(16, 32), false);
  std::vector<float> whole(256);
  same.for_evaluation(picture, whole.data());  // has the model's size: nothing is cut off
  EXPECT_EQ(whole[255], 255);
}

TEST(PicturePreparer, TrainingChangesEveryDrawOfAPictureDifferently) {
  std::vector<uint8_t> values(20 * 20 * 3);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint8_t>(i * 37 % 251);
  }
  const Array picture = Array::of<uint8_t>({20, 20, 3}, values);
  const PicturePreparer preparer({16, 16, 3}, config(16, 18), true);
  PictureAugmentSpec spec;
  spec.crop = RandomCropSpec{};
  spec.flip = true;
  spec.rand_augment = {.layers = 2, .magnitude = 5, .translation = 6, .cutout = 4};
  spec.affine.shift = 1;
  spec.pad_crop = 2;
  const auto draw = [&](uint64_t seed, int64_t drawn) {
    std::vector<float> out(16 * 16 * 3);
    preparer.for_training(picture, spec, seed, drawn, out.data());
    return out;
  };
  EXPECT_EQ(draw(1, 5), draw(1, 5));
  EXPECT_NE(draw(1, 5), draw(1, 6));
  EXPECT_NE(draw(1, 5), draw(2, 5));
}

TEST(PicturePreparer, APlainResizeMayLeaveTheRangeOfBytes) {
  std::vector<uint8_t> values(8 * 8, 0);
  std::fill(values.begin() + 32, values.end(), 255);
  const PicturePreparer plain({12, 12, 1}, config(12, 12), true);
  const PicturePreparer antialiased({12, 12, 1}, config(12, 12), false);
  std::vector<float> out(144);
  plain.for_training(grey({8, 8}, values), {}, 1, 0, out.data());
  EXPECT_LT(*std::min_element(out.begin(), out.end()), 0);
  antialiased.for_training(grey({8, 8}, values), {}, 1, 0, out.data());
  EXPECT_GE(*std::min_element(out.begin(), out.end()), 0);
}

}  // namespace
}  // namespace perceiver::train
