#include "train/data/bad_samples.h"

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

// Samples 2, 3 and 7 of 8 cannot be read.
int64_t sample(int64_t index) {
  if (index == 2 || index == 3 || index == 7) {
    throw Error(ErrorCode::kFormat, "sample " + std::to_string(index) + " is damaged");
  }
  return index;
}

TEST(BadSamples, TheFirstStopsARunThatSkipsNone) {
  BadSamples bad(0);
  EXPECT_EQ(bad.read(1, 8, sample), 1);
  EXPECT_THROW(bad.read(2, 8, sample), Error);
  EXPECT_EQ(bad.skipped(), 0);
}

TEST(BadSamples, TheNextGoodOneStandsInAndEachIsCountedOnce) {
  BadSamples bad(3);
  EXPECT_EQ(bad.read(2, 8, sample), 4);
  EXPECT_EQ(bad.read(3, 8, sample), 4);
  EXPECT_EQ(bad.skipped(), 2);
  EXPECT_EQ(bad.read(7, 8, sample), 0);
  EXPECT_EQ(bad.read(7, 8, sample), 0);
  EXPECT_EQ(bad.skipped(), 3);
}

TEST(BadSamples, OneMoreThanAllowedStopsWithItsOwnMessage) {
  BadSamples bad(2);
  bad.read(2, 8, sample);
  try {
    bad.read(7, 8, sample);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "sample 7 is damaged");
  }
}

TEST(BadSamples, AllBadOrAnotherKindOfErrorStops) {
  BadSamples bad(100);
  const auto none = [](int64_t) -> int64_t { throw Error(ErrorCode::kIo, "gone"); };
  EXPECT_THROW(bad.read(0, 4, none), Error);
  const auto wrong = [](int64_t) -> int64_t { throw Error(ErrorCode::kShape, "wrong"); };
  BadSamples other(100);
  EXPECT_THROW(other.read(0, 4, wrong), Error);
  EXPECT_EQ(other.skipped(), 0);
}

}  // namespace
}  // namespace perceiver::train
