#pragma once

#include <cstdint>
#include <vector>

namespace perceiver::train {

/// How often each class was answered for each class: what accuracy, F1 and Matthews' coefficient
/// are made of. All are 0 before anything was added.
class Confusion {
 public:
  explicit Confusion(int64_t classes);
  void add(int64_t truth, int64_t answer, int64_t times = 1);

  int64_t count() const { return count_; }
  double accuracy() const;
  /// 2 hits / (2 hits + misses + false alarms) of one class; 0 when it neither is nor is answered.
  double f1(int64_t positive) const;
  /// Mean of f1() over all classes.
  double macro_f1() const;
  /// Matthews' correlation coefficient, in its form for any number of classes (Gorodkin 2004); 0
  /// when only one class is answered or true.
  double matthews() const;

 private:
  double at(int64_t truth, int64_t answer) const;
  double times_true(int64_t of) const;
  double times_answered(int64_t of) const;

  int64_t classes_;
  int64_t count_ = 0;
  std::vector<int64_t> cells_;  // [truth][answer]
};

/// Linear correlation of two equally long series; 0 when one of them is constant or both are empty.
double pearson(const std::vector<double>& a, const std::vector<double>& b);
/// Correlation of their ranks; equal values share the mean of their ranks.
double spearman(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace perceiver::train
