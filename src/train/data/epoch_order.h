#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "train/random.h"

namespace perceiver::train {

/// 0..count-1 in random order, every order equally likely.
std::vector<int64_t> random_order(int64_t count, Random& random);

/// Which example is the `drawn`-th of a run: every epoch has a random order of its own, a function
/// of (seed, epoch) alone. May be asked from several threads.
class EpochOrder {
 public:
  /// @param count  examples in an epoch; > 0
  EpochOrder(uint64_t seed, int64_t count) : seed_(seed), count_(count) {}
  int64_t at(int64_t drawn) const;

 private:
  using Order = std::vector<int64_t>;
  std::shared_ptr<const Order> order(int64_t epoch) const;

  uint64_t seed_;
  int64_t count_;
  // batches near the end of an epoch need two of them
  mutable std::mutex mutex_;
  mutable std::pair<int64_t, std::shared_ptr<const Order>> recent_[2] = {{-1, nullptr},
                                                                         {-1, nullptr}};
};

}  // namespace perceiver::train
