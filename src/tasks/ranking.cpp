#include "perceiver/tasks/ranking.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tasks {

std::vector<double> softmax(const float* logits, int64_t classes) {
  std::vector<double> out(logits, logits + classes);
  if (std::any_of(out.begin(), out.end(), [](double v) { return std::isnan(v); })) {
    throw Error(ErrorCode::kFormat, "the model answered with NaN; are its weights damaged?");
  }
  const double highest = out.empty() ? 0 : *std::max_element(out.begin(), out.end());
  double sum = 0;
  for (double& value : out) {
    value = std::exp(value - highest);
    sum += value;
  }
  for (double& value : out) {
    value /= sum;
  }
  return out;
}

std::vector<Ranked> rank_classes(const float* logits, int64_t classes, int64_t top,
                                 const std::vector<std::string>& labels) {
  const std::vector<double> probability = softmax(logits, classes);
  std::vector<int64_t> order(static_cast<size_t>(classes));
  std::iota(order.begin(), order.end(), int64_t{0});
  const int64_t kept = std::clamp<int64_t>(top, 0, classes);
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::vector<Ranked> ranked;
  for (int64_t i = 0; i < kept; ++i) {
    const int64_t index = order[static_cast<size_t>(i)];
    const bool named = index < static_cast<int64_t>(labels.size());
    ranked.push_back({index, named ? labels[static_cast<size_t>(index)] : cat("class ", index),
                      probability[static_cast<size_t>(index)], static_cast<double>(logits[index])});
  }
  return ranked;
}

}  // namespace perceiver::tasks
