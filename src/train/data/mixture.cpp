#include "train/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "train/random.h"

namespace perceiver::train {
namespace {

double weight_of(int64_t size, Sampling sampling) {
  switch (sampling) {
    case Sampling::kSqrt:
      return std::sqrt(static_cast<double>(size));
    case Sampling::kEqual:
      return 1;
    default:
      return static_cast<double>(size);
  }
}

std::vector<int64_t> share_out(const std::vector<int64_t>& sizes, Sampling sampling) {
  double weights = 0;
  for (const int64_t size : sizes) {
    weights += weight_of(size, sampling);
  }
  const auto all = static_cast<double>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
  std::vector<int64_t> shares;
  for (const int64_t size : sizes) {
    const double share = all * weight_of(size, sampling) / weights;
    shares.push_back(std::max<int64_t>(1, std::llround(share)));
  }
  return shares;
}

// The orders of the tasks' examples must differ from each other and from that of the places.
uint64_t seed_of_task(uint64_t seed, int64_t task) {
  return Random{seed, kTaskOrder, static_cast<uint64_t>(task)}.next();
}

}  // namespace

Mixture::Mixture(uint64_t seed, const std::vector<int64_t>& sizes, Sampling sampling)
    : shares_(share_out(sizes, sampling)),
      epoch_(std::accumulate(shares_.begin(), shares_.end(), int64_t{0})),
      places_(seed, epoch_) {
  for (size_t task = 0; task < sizes.size(); ++task) {
    examples_.emplace_back(seed_of_task(seed, static_cast<int64_t>(task)), sizes[task]);
  }
}

Mixture::Place Mixture::at(int64_t drawn) const {
  int64_t place = places_.at(drawn);
  size_t task = 0;
  while (place >= shares_[task]) {
    place -= shares_[task];
    ++task;
  }
  const int64_t drawn_of_task = drawn / epoch_ * shares_[task] + place;
  return {static_cast<int64_t>(task), examples_[task].at(drawn_of_task)};
}

}  // namespace perceiver::train
