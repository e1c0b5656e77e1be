#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/train/train.h"
#include "train/data/class_names.h"

namespace perceiver::train {

/// Mean over examples of the loss of a classification, nats: softmax cross-entropy for kSingle, the
/// mean over classes of the sigmoid cross-entropies for kMulti.
/// @param logits [B, K]  @param targets  as class_targets() makes them
/// @param label_smoothing  kSingle only
at::Tensor class_loss(const at::Tensor& logits, const at::Tensor& targets, LabelKind kind,
                      double label_smoothing = 0);

/// Softmax or sigmoid. @param logits [B, K]
at::Tensor class_probabilities(const at::Tensor& logits, LabelKind kind);

/// Gathers a classifier's answers on a test set.
class ClassScores {
 public:
  ClassScores(int64_t classes, LabelKind kind) : classes_(classes), kind_(kind) {}

  /// @param probabilities [B, K], e.g. means over several clips  @param targets as class_targets()
  void add(const at::Tensor& probabilities, const at::Tensor& targets);
  /// kSingle: accuracy; kMulti: map, the mean average precision, and prior_map, that of an answer
  /// that is the same for every example.
  Metrics metrics() const;

 private:
  int64_t classes_;
  LabelKind kind_;
  double correct_ = 0, count_ = 0;
  std::vector<float> scores_;
  std::vector<uint8_t> positive_;
};

}  // namespace perceiver::train
