#include "train/data/epoch_order.h"

#include <numeric>

#include "train/random.h"

namespace perceiver::train {

int64_t EpochOrder::at(int64_t drawn) const {
  return (*order(drawn / count_))[static_cast<size_t>(drawn % count_)];
}

std::shared_ptr<const EpochOrder::Order> EpochOrder::order(int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  auto& slot = recent_[epoch % 2];
  if (slot.first != epoch) {
    auto made = std::make_shared<Order>(static_cast<size_t>(count_));
    std::iota(made->begin(), made->end(), 0);
    Random random{seed_, kOrder, static_cast<uint64_t>(epoch)};
    for (size_t i = made->size(); i > 1; --i) {  // Fisher-Yates
      std::swap((*made)[i - 1],
                (*made)[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
    }
    slot = {epoch, std::move(made)};
  }
  return slot.second;
}

}  // namespace perceiver::train
