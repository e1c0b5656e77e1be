#include "train/data/epoch_order.h"

#include <set>

#include <gtest/gtest.h>

namespace perceiver::train {
namespace {

TEST(EpochOrder, EveryEpochHoldsEveryExampleOnceInItsOwnOrder) {
  const EpochOrder order(5, 37);
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t>& seen = epochs.emplace_back();
    for (int64_t i = 0; i < 37; ++i) {
      seen.push_back(order.at(epoch * 37 + i));
    }
    EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 37U);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_EQ(order.at(3), epochs[0][3]) << "going back an epoch gives the same order";
  EXPECT_NE(EpochOrder(6, 37).at(0) * 37 + EpochOrder(6, 37).at(1), order.at(0) * 37 + order.at(1));
}

}  // namespace
}  // namespace perceiver::train
