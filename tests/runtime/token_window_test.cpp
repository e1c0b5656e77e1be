#include "runtime/token_window.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace perceiver::runtime::test {
namespace {

constexpr int64_t kUnbounded = int64_t{1} << 62;

struct Cutting {
  int64_t begin, end, origin, width;
  CutLimits limits;
};

std::string describe(const Cutting& c) {
  return std::to_string(c.begin) + " to " + std::to_string(c.end) + " from " +
         std::to_string(c.origin) + ", rows of " + std::to_string(c.width) + ", at most " +
         std::to_string(c.limits.window);
}

const std::vector<Cutting> kCuttings = {
    {0, 10, 0, kUnbounded, {4, kUnbounded}},            // no grid
    {3, 10, 0, kUnbounded, {100, kUnbounded}},          //
    {0, 12 * 7, 0, 7, {30, kUnbounded}},                // short rows
    {3, 80, 2, 7, {30, kUnbounded}},                    // begins and ends within rows
    {2, 4, 1, 7, {30, kUnbounded}},                     // within one row
    {0, 50 * 1000, 0, 1000, {16384, kUnbounded}},       // rows are cut
    {999, 50 * 1000 - 1, 0, 1000, {16384, 3 * 1000}},   // and few are begun at once
    {10, 3 * 5000, 70, 5000, {64, 1}},                  // the smallest windows
    {0, 100000, 0, 100000, {16384, kUnbounded}},        // one long row
    {5, 5, 0, 1000, {16384, kUnbounded}},               // nothing
    {0, 40 * 321, 0, 321, {16384, kUnbounded}},         // just long enough to be cut
    {123, 456789, 7654321, 4000, {16384, kUnbounded}},  // a block of something larger
};

TEST(ForWindows, UsesEveryTokenOnceAndIsDoneWithItAfterwards) {
  for (const Cutting& c : kCuttings) {
    std::vector<int> used(static_cast<size_t>(c.end), 0);
    int64_t done = c.begin;
    for_windows(
        c.begin, c.end, c.origin, c.width, c.limits,
        [&](const TokenWindow& window) {
          for (int64_t i = 0; i < window.count(); ++i) {
            const int64_t token = window.token(i);
            ASSERT_TRUE(token >= done && token < c.end) << describe(c);
            ++used[static_cast<size_t>(token)];
          }
        },
        [&](int64_t first, int64_t last) {
          EXPECT_EQ(first, done) << describe(c);
          for (int64_t token = first; token < last; ++token) {
            ASSERT_EQ(used[static_cast<size_t>(token)], 1) << token << " of " << describe(c);
          }
          done = last;
        });
    EXPECT_EQ(done, c.end) << describe(c);
  }
}

TEST(ForWindows, AWindowIsARectangleOfTheGridWithinItsLimits) {
  for (const Cutting& c : kCuttings) {
    for_windows(
        c.begin, c.end, c.origin, c.width, c.limits,
        [&](const TokenWindow& window) {
          EXPECT_LE(window.count(), c.limits.window) << describe(c);
          EXPECT_LE(window.columns, window.pitch) << describe(c);
          const int64_t column = (c.origin + window.first) % c.width;
          EXPECT_LE(column + window.columns, c.width) << "crosses rows: " << describe(c);
          EXPECT_TRUE(window.runs == 1 || window.pitch == c.width) << describe(c);
        },
        [](int64_t, int64_t) {});
  }
}

TEST(CutRows, KeepsTablesOfAWindowSmallUnlessThereAreFewRows) {
  const Cut many = cut_rows(2500, 4000, {16384, kUnbounded});
  EXPECT_LE(many.columns, 256);
  EXPECT_GE(many.rows, 32);
  const Cut few = cut_rows(2, 4000, {16384, kUnbounded});
  EXPECT_EQ(few.rows, 2);
  EXPECT_GE(few.rows * few.columns, 4000);
  const Cut whole = cut_rows(224, 224, {16384, kUnbounded});
  EXPECT_EQ(whole.columns, 224);
}

TEST(CutRows, BeginsNoMoreRowsThanTheBandHolds) {
  const Cut cut = cut_rows(2500, 4000, {16384, 12 * 4000});
  EXPECT_LE(cut.rows, 12);
  EXPECT_GE(cut.rows * cut.columns, 4000);
}

}  // namespace
}  // namespace perceiver::runtime::test
