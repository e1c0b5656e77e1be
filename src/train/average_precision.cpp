#include "train/average_precision.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

void check_counts(size_t scores, size_t positive) {
  if (scores != positive) {
    throw Error(ErrorCode::kShape,
                cat("average precision of ", scores, " scores and ", positive, " truths"));
  }
}

float rank_of(float score) {
  return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
}

}  // namespace

std::optional<double> average_precision(const std::vector<float>& scores,
                                        const std::vector<uint8_t>& positive) {
  check_counts(scores.size(), positive.size());
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return rank_of(scores[a]) > rank_of(scores[b]); });
  double found = 0;  // positives scored at least as high as the examples taken so far
  double sum = 0;
  for (size_t begin = 0; begin < order.size();) {
    const float score = rank_of(scores[order[begin]]);
    double gained = 0;
    size_t end = begin;
    for (; end < order.size() && rank_of(scores[order[end]]) == score; ++end) {
      gained += positive[order[end]] != 0 ? 1 : 0;
    }
    found += gained;
    sum += gained * found / static_cast<double>(end);
    begin = end;
  }
  if (found == 0) {
    return std::nullopt;
  }
  return sum / found;
}

MeanAveragePrecision mean_average_precision(const std::vector<float>& scores,
                                            const std::vector<uint8_t>& positive, int64_t classes) {
  check_counts(scores.size(), positive.size());
  const auto width = static_cast<size_t>(std::max<int64_t>(classes, 1));
  if (scores.size() % width != 0) {
    throw Error(ErrorCode::kShape,
                cat(scores.size(), " scores are no whole rows of ", classes, " classes"));
  }
  const size_t count = scores.size() / width;
  MeanAveragePrecision mean;
  std::vector<float> column(count);
  std::vector<uint8_t> truth(count);
  for (size_t k = 0; k < width; ++k) {
    for (size_t i = 0; i < count; ++i) {
      column[i] = scores[i * width + k];
      truth[i] = positive[i * width + k];
    }
    if (const std::optional<double> precision = average_precision(column, truth)) {
      const auto positives = static_cast<double>(
          std::count_if(truth.begin(), truth.end(), [](uint8_t flag) { return flag != 0; }));
      mean.value += *precision;
      mean.of_equal_scores += positives / static_cast<double>(count);
      ++mean.classes;
    }
  }
  if (mean.classes > 0) {
    mean.value /= static_cast<double>(mean.classes);
    mean.of_equal_scores /= static_cast<double>(mean.classes);
  }
  return mean;
}

}  // namespace perceiver::train
