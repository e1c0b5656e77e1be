#include "train/data/mixture.h"

#include <map>
#include <utility>

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

using Seen = std::map<std::pair<int64_t, int64_t>, int>;

Seen draw(const Mixture& mixture, int64_t begin, int64_t end) {
  Seen seen;
  for (int64_t i = begin; i < end; ++i) {
    const Mixture::Place place = mixture.at(i);
    ++seen[{place.task, place.example}];
  }
  return seen;
}

TEST(Mixture, BySizeAnEpochIsEveryExampleOnce) {
  const Mixture mixture(5, {3, 10, 1}, Sampling::kSize);
  for (const int64_t epoch : {0, 1, 7}) {
    const Seen seen = draw(mixture, 14 * epoch, 14 * (epoch + 1));
    EXPECT_EQ(seen.size(), 14U);
  }
}

TEST(Mixture, SharesFollowTheSampling) {
  EXPECT_EQ(Mixture(1, {400, 100}, Sampling::kSize).shares(), (std::vector<int64_t>{400, 100}));
  EXPECT_EQ(Mixture(1, {400, 100}, Sampling::kSqrt).shares(), (std::vector<int64_t>{333, 167}));
  EXPECT_EQ(Mixture(1, {400, 100}, Sampling::kEqual).shares(), (std::vector<int64_t>{250, 250}));
}

TEST(Mixture, ATaskGoesThroughItsExamplesBeforeOneComesAgain) {
  const Mixture mixture(1, {2, 6}, Sampling::kEqual);  // 4 draws each an epoch
  const Seen seen = draw(mixture, 0, 24);
  EXPECT_EQ(seen.size(), 8U);
  for (const auto& [place, times] : seen) {
    EXPECT_EQ(times, place.first == 0 ? 6 : 2);
  }
}

TEST(Mixture, OrderFollowsTheSeed) {
  const auto order = [](uint64_t seed) {
    const Mixture mixture(seed, {50, 50}, Sampling::kSize);
    std::vector<std::pair<int64_t, int64_t>> places;
    for (int64_t i = 0; i < 20; ++i) {
      places.emplace_back(mixture.at(i).task, mixture.at(i).example);
    }
    return places;
  };
  EXPECT_EQ(order(3), order(3));
  EXPECT_NE(order(3), order(4));
}

}  // namespace
}  // namespace perceiver::train
