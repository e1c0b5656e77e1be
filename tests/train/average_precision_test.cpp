#include "train/average_precision.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

TEST(AveragePrecision, IsTheMeanPrecisionAtThePositives) {
  // by score: + - + - : precision 1/1 and 2/3
  EXPECT_DOUBLE_EQ(*average_precision({0.1F, 0.9F, 0.5F, 0.7F}, {0, 1, 1, 0}), (1.0 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(*average_precision({3, 2, 1}, {1, 1, 0}), 1);
  EXPECT_DOUBLE_EQ(*average_precision({1, 2, 3}, {1, 0, 0}), 1.0 / 3);
}

TEST(AveragePrecision, TakesEqualScoresTogether) {
  // one threshold holds both a positive and a negative: 1/2, whatever their order
  EXPECT_DOUBLE_EQ(*average_precision({0.5F, 0.5F}, {1, 0}), 0.5);
  EXPECT_DOUBLE_EQ(*average_precision({0.5F, 0.5F}, {0, 1}), 0.5);
  // {+} then {+, -, -}: 1/2 * 1 + 1/2 * 2/4
  EXPECT_DOUBLE_EQ(*average_precision({0.9F, 0.2F, 0.2F, 0.2F}, {1, 0, 1, 0}), 0.75);
  EXPECT_DOUBLE_EQ(*average_precision({7, 7, 7, 7, 7}, {0, 1, 0, 0, 1}), 0.4);
}

TEST(AveragePrecision, HasNoValueWithoutPositives) {
  EXPECT_FALSE(average_precision({1, 2}, {0, 0}).has_value());
  EXPECT_FALSE(average_precision({}, {}).has_value());
}

TEST(AveragePrecision, RanksWhatIsNoNumberLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_DOUBLE_EQ(*average_precision({nan, 0.1F, -5}, {1, 0, 0}), 1.0 / 3);
}

// Recall gained at each distinct threshold times the precision there, counted the slow way.
double by_thresholds(const std::vector<float>& scores, const std::vector<uint8_t>& positive) {
  std::vector<float> thresholds = scores;
  std::sort(thresholds.begin(), thresholds.end(), std::greater<>());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  const double all = std::accumulate(positive.begin(), positive.end(), 0.0);
  double sum = 0;
  double before = 0;
  for (const float threshold : thresholds) {
    double taken = 0;
    double right = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      taken += scores[i] >= threshold ? 1 : 0;
      right += scores[i] >= threshold && positive[i] != 0 ? 1 : 0;
    }
    sum += (right / all - before) * right / taken;
    before = right / all;
  }
  return sum;
}

TEST(AveragePrecision, AgreesWithCountingAtEveryThreshold) {
  Random random{11};
  for (int round = 0; round < 50; ++round) {
    std::vector<float> scores;
    std::vector<uint8_t> positive;
    for (int i = 0; i < 30; ++i) {
      scores.push_back(static_cast<float>(random.below(8)));  // many ties
      positive.push_back(random.below(3) == 0 ? 1 : 0);
    }
    positive[0] = 1;
    EXPECT_NEAR(*average_precision(scores, positive), by_thresholds(scores, positive), 1e-12);
  }
}

TEST(AveragePrecision, MeanLeavesOutClassesWithoutPositives) {
  // columns: perfect, worst of three, never positive
  const std::vector<float> scores{3, 3, 0, 2, 2, 1, 1, 1, 2};
  const std::vector<uint8_t> positive{1, 0, 0, 0, 0, 0, 0, 1, 0};
  const MeanAveragePrecision mean = mean_average_precision(scores, positive, 3);
  EXPECT_EQ(mean.classes, 2);
  EXPECT_DOUBLE_EQ(mean.value, (1 + 1.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(mean.of_equal_scores, 1.0 / 3);
  EXPECT_EQ(mean_average_precision({1, 2}, {0, 0}, 2).value, 0);
}

TEST(AveragePrecision, RefusesCountsThatDoNotFit) {
  EXPECT_THROW(average_precision({1, 2}, {1}), Error);
  EXPECT_THROW(mean_average_precision({1, 2, 3}, {1, 0, 0}, 2), Error);
}

}  // namespace
}  // namespace perceiver::train
