#include "train/data/epoch_order.h"

#include <numeric>

namespace perceiver::train {

std::vector<int64_t> random_order(int64_t count, Random& random) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) {  // Fisher-Yates
    std::swap(order[i - 1], order[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  return order;
}

int64_t EpochOrder::at(int64_t drawn) const {
  return (*order(drawn / count_))[static_cast<size_t>(drawn % count_)];
}

std::shared_ptr<const EpochOrder::Order> EpochOrder::order(int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  auto& slot = recent_[epoch % 2];
  if (slot.first != epoch) {
    Random random{seed_, kOrder, static_cast<uint64_t>(epoch)};
    auto made = std::make_shared<Order>(random_order(count_, random));
    slot = {epoch, std::move(made)};
  }
  return slot.second;
}

}  // namespace perceiver::train
