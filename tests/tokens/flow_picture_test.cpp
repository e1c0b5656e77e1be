#include "perceiver/tokens/flow_picture.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;

std::vector<int> levels(const Array& picture) {
  return {picture.data<uint8_t>(), picture.data<uint8_t>() + picture.numel()};
}

Array flow(const std::vector<float>& uv) {
  return Array::of<float>({1, static_cast<int64_t>(uv.size()) / 2, 2}, uv);
}

TEST(FlowPicture, NoMotionIsWhite) {
  EXPECT_THAT(levels(flow_picture(flow({0, 0}))), ElementsAre(255, 255, 255));
}

TEST(FlowPicture, FullLengthIsTheHueOfTheDirection) {
  // Right is red; left is half way round the wheel (position 27 of 54): 255 - floor(255 * 2 / 11).
  EXPECT_THAT(levels(flow_picture(flow({5, 0, -5, 0}))), ElementsAre(255, 0, 0, 0, 209, 255));
}

TEST(FlowPicture, HalfLengthIsHalfWhite) {
  EXPECT_THAT(levels(flow_picture(flow({5, 0}), {}, {.max_radius = 10})),
              ElementsAre(255, 127, 127));
}

TEST(FlowPicture, BeyondTheRadiusIsDarker) {
  EXPECT_THAT(levels(flow_picture(flow({20, 0}), {}, {.max_radius = 10})), ElementsAre(191, 0, 0));
}

TEST(FlowPicture, UnknownPixelsAreBlackAndDoNotScaleTheRest) {
  const Array valid = Array::of<bool>({1, 2}, {true, false});
  EXPECT_THAT(levels(flow_picture(flow({1, 0, 900, 0}), valid)), ElementsAre(255, 0, 0, 0, 0, 0));
  EXPECT_THAT(levels(flow_picture(flow({1, 0, std::nanf(""), 0}))),
              ElementsAre(255, 0, 0, 0, 0, 0));
}

TEST(FlowPicture, RefusesOtherShapes) {
  EXPECT_THROW(flow_picture(Array::zeros(DType::kF32, {2, 2, 3})), Error);
  EXPECT_THROW(flow_picture(flow({0, 0}), Array::zeros(DType::kBool, {2, 1})), Error);
  EXPECT_THROW(flow_picture(flow({0, 0}), {}, {.max_radius = -1}), Error);
}

}  // namespace
}  // namespace perceiver::tokens
