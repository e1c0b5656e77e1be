#include "train/scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace perceiver::train {
namespace {

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> rank(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) {
      ++end;
    }
    for (size_t i = begin; i < end; ++i) {
      rank[order[i]] = static_cast<double>(begin + end - 1) / 2;
    }
    begin = end;
  }
  return rank;
}

}  // namespace

Confusion::Confusion(int64_t classes)
    : classes_(classes), cells_(static_cast<size_t>(classes * classes), 0) {}

void Confusion::add(int64_t truth, int64_t answer, int64_t times) {
  cells_[static_cast<size_t>(truth * classes_ + answer)] += times;
  count_ += times;
}

double Confusion::at(int64_t truth, int64_t answer) const {
  return static_cast<double>(cells_[static_cast<size_t>(truth * classes_ + answer)]);
}

double Confusion::times_true(int64_t of) const {
  double sum = 0;
  for (int64_t answer = 0; answer < classes_; ++answer) {
    sum += at(of, answer);
  }
  return sum;
}

double Confusion::times_answered(int64_t of) const {
  double sum = 0;
  for (int64_t truth = 0; truth < classes_; ++truth) {
    sum += at(truth, of);
  }
  return sum;
}

double Confusion::accuracy() const {
  double hits = 0;
  for (int64_t k = 0; k < classes_; ++k) {
    hits += at(k, k);
  }
  return count_ == 0 ? 0 : hits / static_cast<double>(count_);
}

double Confusion::f1(int64_t positive) const {
  const double both = times_true(positive) + times_answered(positive);
  return both == 0 ? 0 : 2 * at(positive, positive) / both;
}

double Confusion::macro_f1() const {
  double sum = 0;
  for (int64_t k = 0; k < classes_; ++k) {
    sum += f1(k);
  }
  return sum / static_cast<double>(classes_);
}

double Confusion::matthews() const {
  const auto all = static_cast<double>(count_);
  double both = 0;
  double true_squares = 0;
  double answered_squares = 0;
  for (int64_t k = 0; k < classes_; ++k) {
    both += times_true(k) * times_answered(k);
    true_squares += times_true(k) * times_true(k);
    answered_squares += times_answered(k) * times_answered(k);
  }
  const double spread =
      std::sqrt(all * all - true_squares) * std::sqrt(all * all - answered_squares);
  return spread == 0 ? 0 : (accuracy() * all * all - both) / spread;
}

double pearson(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.empty()) {
    return 0;
  }
  const double mean_a = mean(a);
  const double mean_b = mean(b);
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return aa == 0 || bb == 0 ? 0 : ab / std::sqrt(aa) / std::sqrt(bb);
}

double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  return pearson(ranks(a), ranks(b));
}

}  // namespace perceiver::train
