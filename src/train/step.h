#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/distributed/group.h"
#include "perceiver/nn/model.h"
#include "perceiver/train/recipe.h"
#include "train/average.h"
#include "train/compute_model.h"
#include "train/loader.h"
#include "train/optimiser.h"
#include "train/task.h"

namespace perceiver::train {

/// One optimiser step: `accumulate` batches on each of the group's processes, their gradients
/// summed as if they were one batch, clipped, applied.
class Step {
 public:
  struct Parts {
    const Recipe& recipe;
    Task& task;
    nn::Model& model;  ///< the master weights
    ComputeModel& compute;
    Optimiser& optimiser;
    AveragedWeights& average;
    distributed::Group& group;
  };
  struct Result {
    double loss = 0;           ///< of all the step's batches
    double gradient_norm = 0;  ///< before clipping
    double learning_rate = 0;
  };

  explicit Step(const Parts& parts) : parts_(parts) {}

  /// Index of the first batch that step `step` takes on this process.
  int64_t first_batch(int64_t step) const;
  /// @param step    finished steps before this one
  /// @param loader  at first_batch(step), stride group.size()
  /// @throws Error(kArgument) naming step and batch when loss or gradients are not finite; then the
  ///         weights are as they were
  Result run(int64_t step, Loader& loader);

 private:
  std::vector<Shares> shares_of(const std::vector<Batch>& batches) const;
  double backward(int64_t step, int64_t index, const Batch& batch, const Shares& shares);
  void sum_gradients();
  [[noreturn]] void refuse(int64_t step, const std::string& what, double value) const;

  Parts parts_;
};

}  // namespace perceiver::train
