#include "perceiver/tokens/patches.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

Array counting(std::vector<int64_t> shape) {
  std::vector<int64_t> values(static_cast<size_t>(element_count(shape)));
  std::iota(values.begin(), values.end(), 0);
  return Array::of<int64_t>(std::move(shape), values);
}

std::vector<int64_t> values(const Array& array) {
  return {array.data<int64_t>(), array.data<int64_t>() + array.numel()};
}

TEST(SpaceToDepth, OrdersChannelsByRowColumnThenChannel) {
  const Array out = space_to_depth(counting({1, 2, 4, 2}), {2, 2});
  EXPECT_EQ(out.shape(), (std::vector<int64_t>{1, 1, 2, 8}));
  EXPECT_THAT(values(out), ElementsAre(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15));
}

TEST(SpaceToDepth, TakesSoundAndVideo) {
  EXPECT_THAT(values(space_to_depth(counting({1, 6, 1}), {3})), ElementsAre(0, 1, 2, 3, 4, 5));
  const Array video = space_to_depth(counting({1, 2, 2, 2, 1}), {2, 1, 2});
  EXPECT_EQ(video.shape(), (std::vector<int64_t>{1, 1, 2, 1, 4}));
  EXPECT_THAT(values(video), ElementsAre(0, 1, 4, 5, 2, 3, 6, 7));
}

TEST(SpaceToDepth, KeepsBatchesApart) {
  EXPECT_THAT(values(space_to_depth(counting({2, 2, 2, 1}), {1, 2})),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(SpaceToDepth, NamesTheAxisThatDoesNotDivide) {
  try {
    space_to_depth(counting({1, 4, 5, 1}), {2, 2});
    FAIL() << "must throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShape);
    EXPECT_THAT(error.what(), HasSubstr("axis 1 of [1, 4, 5, 1] has 5 elements"));
  }
  EXPECT_THROW(space_to_depth(counting({1, 4, 1}), {2, 2}), Error);
  EXPECT_THROW(space_to_depth(counting({1, 4, 1}), {0}), Error);
}

TEST(DepthToSpace, UndoesSpaceToDepth) {
  const Array grid = counting({2, 4, 6, 3, 2});
  const Array deep = space_to_depth(grid, {2, 3, 1});
  const Array back = depth_to_space(deep, {2, 3, 1});
  EXPECT_EQ(back.shape(), grid.shape());
  EXPECT_THAT(values(back), ElementsAreArray(values(grid)));
}

TEST(DepthToSpace, RefusesChannelsThatAreNoMultipleOfTheBlock) {
  EXPECT_THROW(depth_to_space(counting({1, 2, 2, 6}), {2, 2}), Error);
}

TEST(Subsample, KeepsEveryStrideThElementFromTheFirst) {
  const Array out = subsample(counting({2, 3, 4, 1}), {2, 3});
  EXPECT_EQ(out.shape(), (std::vector<int64_t>{2, 2, 2, 1}));
  EXPECT_THAT(values(out), ElementsAre(0, 3, 8, 11, 12, 15, 20, 23));
}

TEST(ExtractNeighbourhoods, PadsWithZerosAndOrdersByRowColumnThenChannel) {
  const Array out = extract_neighbourhoods(Array::of<float>({2, 2, 1}, {1, 2, 3, 4}), 3);
  ASSERT_EQ(out.shape(), (std::vector<int64_t>{2, 2, 9}));
  const std::vector<float> got(out.data<float>(), out.data<float>() + out.numel());
  EXPECT_THAT(got, ElementsAre(0, 0, 0, 0, 1, 2, 0, 3, 4,  //
                               0, 0, 0, 1, 2, 0, 3, 4, 0,  //
                               0, 1, 2, 0, 3, 4, 0, 0, 0,  //
                               1, 2, 0, 3, 4, 0, 0, 0, 0));
}

TEST(ExtractNeighbourhoods, KeepsFramesApart) {
  const Array out = extract_neighbourhoods(Array::of<float>({2, 1, 1, 2}, {1, 2, 3, 4}), 3);
  ASSERT_EQ(out.shape(), (std::vector<int64_t>{2, 1, 1, 18}));
  EXPECT_EQ(out.data<float>()[8], 1.0F);
  EXPECT_EQ(out.data<float>()[18 + 9], 4.0F);
}

TEST(ExtractNeighbourhoods, RefusesEvenSizes) {
  EXPECT_THROW(extract_neighbourhoods(Array::of<float>({1, 1, 1}, {1}), 2), Error);
}

}  // namespace
}  // namespace perceiver::tokens
