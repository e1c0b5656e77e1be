#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/train/train.h"
#include "train/tasks/tensor_task.h"

namespace perceiver::train {

/// What an output should say of a batch.
struct Target {
  at::Tensor values;  ///< [B, ...]: I64 classes, or floats
  at::Tensor counts;  ///< bool, same shape: false where it does not matter (values are 0 there)
};

/// Key of Target::counts among a batch's targets; no output has a dot in its name.
inline std::string mask_key(const std::string& output) {
  return output + ".counts";
}

/// Shape of the target of an output of shape `output`.
std::vector<int64_t> target_shape(TensorLoss loss, std::vector<int64_t> output);

/// Mean of the output's loss over the values that count; 0 (with gradients of 0) if none does.
/// @param given  the output, of the shape that target_shape() makes from the target's
at::Tensor mean_loss(const TensorOutput& output, const at::Tensor& given, const Target& wanted);

/// Measures one output, and the best constant answer beside it: the most frequent class, the more
/// frequent of yes and no, the mean at each place (all of the measured targets themselves).
class OutputTally {
 public:
  explicit OutputTally(const TensorOutput& output) : output_(output) {}

  /// All targets first, ...
  void learn(const Target& wanted);
  /// ... then each batch with its answers.
  void add(const at::Tensor& given, const Target& wanted);
  /// <output>_accuracy, _majority_accuracy, _loss; or <output>_rmse, _mean_rmse; or _mae, _mean_mae
  Metrics metrics() const;

 private:
  bool tells_classes() const {
    return output_.loss == TensorLoss::kCrossEntropy || output_.loss == TensorLoss::kBinary;
  }

  const TensorOutput& output_;
  at::Tensor histogram_;         // [classes], of kCrossEntropy and kBinary
  at::Tensor sum_, seen_;        // [...] of one example: of kMse and kL1
  double count_ = 0;             // values that counted
  double right_ = 0, loss_ = 0;  // answers
  double constant_loss_ = 0;     // of the mean
};

}  // namespace perceiver::train
