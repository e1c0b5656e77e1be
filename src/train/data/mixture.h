#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "train/data/epoch_order.h"

namespace perceiver::train {

/// How often each of several tasks is trained on.
enum class Sampling {
  kSize,   ///< as often as it has examples: all are seen once an epoch
  kSqrt,   ///< in proportion to the square root of that
  kEqual,  ///< all alike
};

/// Which example of which task is the `drawn`-th of a run. An epoch has as many draws as there are
/// examples of all tasks together, shared out by `sampling` and mixed; every task goes through its
/// own examples in epochs of its own, so none comes twice before the others came once. A function
/// of (seed, drawn) alone; may be asked from several threads.
class Mixture {
 public:
  struct Place {
    int64_t task = 0;
    int64_t example = 0;
  };
  /// @param sizes  examples of each task, all > 0
  Mixture(uint64_t seed, const std::vector<int64_t>& sizes, Sampling sampling);
  Place at(int64_t drawn) const;
  /// Draws of each task in an epoch.
  const std::vector<int64_t>& shares() const { return shares_; }

 private:
  std::vector<int64_t> shares_;
  int64_t epoch_ = 0;  // their sum
  EpochOrder places_;
  std::deque<EpochOrder> examples_;  // one per task; a deque because an order cannot be moved
};

}  // namespace perceiver::train
