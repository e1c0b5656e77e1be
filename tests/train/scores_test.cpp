#include "train/scores.h"

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

// 6 hits and 2 misses of class 1, 1 false alarm, 3 rightly said to be class 0.
Confusion two_classes() {
  Confusion confusion(2);
  confusion.add(1, 1, 6);
  confusion.add(1, 0, 2);
  confusion.add(0, 1, 1);
  confusion.add(0, 0, 3);
  return confusion;
}

TEST(Scores, OfTwoClasses) {
  const Confusion confusion = two_classes();
  EXPECT_EQ(confusion.count(), 12);
  EXPECT_DOUBLE_EQ(confusion.accuracy(), 0.75);
  EXPECT_DOUBLE_EQ(confusion.f1(1), 0.8);
  EXPECT_DOUBLE_EQ(confusion.f1(0), 6.0 / 9);
  EXPECT_DOUBLE_EQ(confusion.macro_f1(), (0.8 + 6.0 / 9) / 2);
  // (6 * 3 - 1 * 2) / sqrt(7 * 8 * 4 * 5)
  EXPECT_NEAR(confusion.matthews(), 16 / 33.4664010613630, 1e-12);
}

// As sklearn.metrics.matthews_corrcoef([0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]).
TEST(Scores, MatthewsOfThreeClasses) {
  Confusion confusion(3);
  const int truth[] = {0, 0, 1, 1, 2, 2, 2};
  const int answer[] = {0, 1, 1, 1, 2, 0, 2};
  for (int i = 0; i < 7; ++i) {
    confusion.add(truth[i], answer[i]);
  }
  EXPECT_NEAR(confusion.matthews(), (5.0 * 7 - 16) / 32, 1e-12);
}

TEST(Scores, AConstantAnswerCorrelatesWithNothing) {
  Confusion confusion(2);
  confusion.add(0, 1, 5);
  confusion.add(1, 1, 5);
  EXPECT_EQ(confusion.matthews(), 0);
  EXPECT_EQ(confusion.f1(0), 0);
  EXPECT_EQ(Confusion(2).accuracy(), 0);
  EXPECT_EQ(pearson({1, 2, 3}, {4, 4, 4}), 0);
  EXPECT_EQ(pearson({}, {}), 0);
}

TEST(Scores, CorrelationOfValuesAndOfRanks) {
  EXPECT_DOUBLE_EQ(pearson({1, 2, 3}, {-2, -4, -6}), -1);
  EXPECT_NEAR(pearson({1, 2, 3, 4}, {1, 3, 2, 5}), 0.8315218406, 1e-9);
  EXPECT_DOUBLE_EQ(spearman({1, 2, 3, 4}, {1, 10, 100, 1000}), 1);
  // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
  EXPECT_NEAR(spearman({1, 2, 2, 3}, {1, 2, 3, 4}), 0.9486832981, 1e-9);
}

}  // namespace
}  // namespace perceiver::train
