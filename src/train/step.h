#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "perceiver/distributed/group.h"
#include "perceiver/nn/model.h"
#include "perceiver/train/recipe.h"
#include "train/average.h"
#include "train/compute_model.h"
#include "train/gradient_sums.h"
#include "train/loader.h"
#include "train/optimiser.h"
#include "train/task.h"

namespace perceiver::train {

/// What each of a step's batches here contributes to the means over all batches of the step, those
/// of other processes included. Their counts travel while the first batch goes forward.
class SharesOfStep {
 public:
  SharesOfStep(const Task& task, const std::vector<Batch>& batches, distributed::Group& group);
  /// Shares of the i-th batch; waits for the counts.
  const Shares& of(size_t i);

 private:
  std::vector<Shares> shares_;  ///< counts, until the totals are there
  at::Tensor totals_;
  std::unique_ptr<distributed::Pending> pending_;
};

/// One optimiser step: `accumulate` batches on each of the group's processes, their gradients
/// summed as if they were one batch, clipped, applied. With Recipe::input_parallel all processes
/// read the same batches, each a part of every input.
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
    bool stop = false;  ///< some process asked for it
  };

  explicit Step(const Parts& parts);

  /// Batches that one step of the whole group takes.
  int64_t batches() const;
  /// Distance between this process's batches, and its place among them.
  int64_t stride() const;
  int64_t offset() const;
  /// @param step    finished steps before this one
  /// @param batch   batches taken before this step
  /// @param loader  at batch + offset(), in steps of stride()
  /// @param stop    whether this process wants to stop after the step; null = no
  /// @throws Error(kArgument) naming step and batch when loss or gradients are not finite; then the
  ///         weights are as they were. Error(kIo) as the group does
  Result run(int64_t step, int64_t batch, Loader& loader, const std::atomic<bool>* stop);

 private:
  at::Tensor forward(int64_t index, const Batch& batch, SharesOfStep& shares, size_t i);
  void join(Result& result);
  void average_statistics();
  [[noreturn]] void refuse(int64_t step, const std::string& what, double value) const;

  Parts parts_;
  std::unique_ptr<GradientSums> sums_;  ///< null: this process is alone
};

}  // namespace perceiver::train
