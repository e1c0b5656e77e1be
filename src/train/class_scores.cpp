#include "train/class_scores.h"

#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>

#include "train/average_precision.h"
#include "train/losses.h"
#include "train/task.h"

namespace perceiver::train {

at::Tensor class_loss(const at::Tensor& logits, const at::Tensor& targets, LabelKind kind,
                      double label_smoothing) {
  return kind == LabelKind::kSingle ? softmax_cross_entropy(logits, targets, label_smoothing)
                                    : at::binary_cross_entropy_with_logits(logits, targets);
}

at::Tensor class_probabilities(const at::Tensor& logits, LabelKind kind) {
  return kind == LabelKind::kSingle ? at::softmax(logits, -1) : at::sigmoid(logits);
}

void ClassScores::add(const at::Tensor& probabilities, const at::Tensor& targets) {
  count_ += static_cast<double>(probabilities.size(0));
  if (kind_ == LabelKind::kSingle) {
    correct_ += count_correct(probabilities, targets);
    return;
  }
  const at::Tensor scores = probabilities.to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor truth = targets.to(at::kCPU, at::kByte).contiguous();
  const float* score = scores.const_data_ptr<float>();
  const uint8_t* flag = truth.const_data_ptr<uint8_t>();
  scores_.insert(scores_.end(), score, score + scores.numel());
  positive_.insert(positive_.end(), flag, flag + truth.numel());
}

Metrics ClassScores::metrics() const {
  if (kind_ == LabelKind::kSingle) {
    return {{"accuracy", count_ > 0 ? correct_ / count_ : 0}};
  }
  const MeanAveragePrecision mean = mean_average_precision(scores_, positive_, classes_);
  return {{"map", mean.value}, {"prior_map", mean.of_equal_scores}};
}

}  // namespace perceiver::train
