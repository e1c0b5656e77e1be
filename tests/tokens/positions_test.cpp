#include "perceiver/tokens/positions.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

PositionSpec fourier(int64_t bands, std::vector<int64_t> max_resolution) {
  PositionSpec position;
  position.kind = PositionKind::kFourier;
  position.num_bands = bands;
  position.max_resolution = std::move(max_resolution);
  return position;
}

std::vector<double> row(const Array& table, int64_t i) {
  const int64_t width = table.size(-1);
  const double* at = table.data<double>() + i * width;
  return {at, at + width};
}

double sin_pi(double x) {
  return std::sin(std::numbers::pi * x);
}
double cos_pi(double x) {
  return std::cos(std::numbers::pi * x);
}

TEST(AxisCoordinates, InclusiveReachesBothEnds) {
  EXPECT_THAT(axis_coordinates(5, AxisGrid::kInclusive), ElementsAre(-1, -0.5, 0, 0.5, 1));
}

TEST(AxisCoordinates, HalfOpenStopsShortOfOne) {
  EXPECT_THAT(axis_coordinates(4, AxisGrid::kHalfOpen), ElementsAre(-1, -0.5, 0, 0.5));
}

TEST(AxisCoordinates, OnePointLiesAtMinusOne) {
  EXPECT_THAT(axis_coordinates(1, AxisGrid::kInclusive), ElementsAre(-1));
  EXPECT_THAT(axis_coordinates(1, AxisGrid::kHalfOpen), ElementsAre(-1));
}

TEST(FourierGrid, BandsRunFromOneToHalfTheMaximumResolution) {
  // One axis of two points, resolution 7: bands 1, 2.25, 3.5.
  const Array table = fourier_grid(fourier(3, {7}), {2}, AxisGrid::kHalfOpen, DType::kF64).dense();
  ASSERT_EQ(table.shape(), (std::vector<int64_t>{2, 7}));
  const std::vector<double> first = row(table, 0);
  const std::vector<double> expected{-1,         sin_pi(-1),    sin_pi(-2.25), sin_pi(-3.5),
                                     cos_pi(-1), cos_pi(-2.25), cos_pi(-3.5)};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(first[i], expected[i], 1e-15) << "channel " << i;
  }
}

TEST(FourierGrid, OneBandHasFrequencyOne) {
  const Array table = fourier_grid(fourier(1, {9}), {3}, AxisGrid::kHalfOpen, DType::kF64).dense();
  EXPECT_NEAR(row(table, 1)[1], sin_pi(-1.0 / 3), 1e-15);
}

TEST(FourierGrid, DenseOrderIsCoordinatesThenSinesByAxisThenCosines) {
  const Array table =
      fourier_grid(fourier(2, {4, 8}), {2, 4}, AxisGrid::kHalfOpen, DType::kF64).dense();
  ASSERT_EQ(table.shape(), (std::vector<int64_t>{8, 10}));
  // Row-major: row 6 is y = 1 of 2, x = 2 of 4, hence coordinates 0 and 0; row 5 has x = -0.5.
  EXPECT_THAT(row(table, 6), ElementsAre(0, 0, 0, 0, 0, 0, 1, 1, 1, 1));
  const std::vector<double> five = row(table, 5);
  const std::vector<double> expected{0, -0.5,         0,         0, sin_pi(-0.5), sin_pi(-2), 1,
                                     1, cos_pi(-0.5), cos_pi(-2)};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(five[i], expected[i], 1e-15) << "channel " << i;
  }
}

TEST(FourierGrid, SineOnlyAndNoCoordinatesLeaveChannelsOut) {
  PositionSpec position = fourier(3, {6, 6});
  EXPECT_EQ(fourier_channels(position, 2), 14);
  position.sine_only = true;
  EXPECT_EQ(fourier_channels(position, 2), 8);
  position.concat_pos = false;
  EXPECT_EQ(fourier_channels(position, 2), 6);
  const Array table = fourier_grid(position, {2, 2}, AxisGrid::kHalfOpen, DType::kF64).dense();
  ASSERT_EQ(table.shape(), (std::vector<int64_t>{4, 6}));
  EXPECT_NEAR(row(table, 0)[1], sin_pi(-2), 1e-15);
  EXPECT_NEAR(row(table, 1)[3], 0, 1e-15);
}

TEST(FourierGrid, AbsentMaximumResolutionIsTheGridItself) {
  const Array given =
      fourier_grid(fourier(4, {3, 5}), {3, 5}, AxisGrid::kInclusive, DType::kF32).dense();
  const Array absent =
      fourier_grid(fourier(4, {}), {3, 5}, AxisGrid::kInclusive, DType::kF32).dense();
  EXPECT_EQ(std::memcmp(given.bytes(), absent.bytes(), static_cast<size_t>(given.nbytes())), 0);
}

TEST(FourierGrid, RowsAreThoseOfTheDenseTableInAnyOrder) {
  const SeparablePositions grid =
      fourier_grid(fourier(3, {9, 4}), {3, 4}, AxisGrid::kInclusive, DType::kF64);
  const Array dense = grid.dense();
  const Array rows = grid.rows({11, 0, 5, 5});
  ASSERT_EQ(rows.size(0), 4);
  EXPECT_EQ(row(rows, 0), row(dense, 11));
  EXPECT_EQ(row(rows, 1), row(dense, 0));
  EXPECT_EQ(row(rows, 3), row(dense, 5));
}

TEST(FourierGrid, FloatTablesRoundAtEveryStep) {
  // At audio's top band the argument is pi * 15360 * x: its float rounding alone moves the sine by
  // up to 4e-3, so these values exist only if every step is rounded as torch rounds it.
  const Array table =
      fourier_grid(fourier(192, {30720}), {1920}, AxisGrid::kInclusive, DType::kF32).rows({1600});
  const float x = table.data<float>()[0];
  EXPECT_EQ(x, 0.667535186F);
  EXPECT_NEAR(double{table.data<float>()[192]},
              std::sin(double{std::numbers::pi_v<float> * (x * 15360.0F)}), 1e-7);
  const Array exact =
      fourier_grid(fourier(192, {30720}), {1920}, AxisGrid::kInclusive, DType::kF64).rows({1600});
  const double difference = std::abs(double{table.data<float>()[192]} - exact.data<double>()[192]);
  EXPECT_GT(difference, 1e-5);
  EXPECT_LT(difference, 1e-2);
}

TEST(FourierGrid, RefusesAResolutionOfAnotherRank) {
  try {
    fourier_grid(fourier(2, {8}), {3, 4}, AxisGrid::kInclusive, DType::kF32);
    FAIL() << "must throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_THAT(error.what(), HasSubstr("max_resolution [8] has 1 axes, the positions have 2"));
  }
}

TEST(FourierGrid, RefusesAPointOutsideTheGrid) {
  const SeparablePositions grid =
      fourier_grid(fourier(1, {}), {3, 4}, AxisGrid::kInclusive, DType::kF32);
  EXPECT_THROW(grid.rows({12}), Error);
  EXPECT_THROW(grid.rows({-1}), Error);
}

TEST(FourierFeatures, OfGridCoordinatesEqualTheGrid) {
  const PositionSpec position = fourier(3, {7, 5});
  const Array grid = fourier_grid(position, {2, 2}, AxisGrid::kHalfOpen, DType::kF32).dense();
  const Array points = Array::of<float>({1, 4, 2}, {-1, -1, -1, 0, 0, -1, 0, 0});
  const Array features = fourier_features(position, points);
  ASSERT_EQ(features.shape(), (std::vector<int64_t>{1, 4, 14}));
  EXPECT_EQ(std::memcmp(features.bytes(), grid.bytes(), static_cast<size_t>(grid.nbytes())), 0);
}

TEST(FourierFeatures, NeedAResolutionPerCoordinate) {
  EXPECT_THROW(fourier_features(fourier(2, {}), Array::of<float>({1, 2}, {0, 0})), Error);
  EXPECT_THROW(fourier_features(fourier(2, {4, 4}), Array::of<int64_t>({1, 2}, {0, 0})), Error);
}

}  // namespace
}  // namespace perceiver::tokens
