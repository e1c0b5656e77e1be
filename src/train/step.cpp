#include "train/step.h"

#include <cmath>

#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/random.h"
#include "train/schedule.h"

namespace perceiver::train {

SharesOfStep::SharesOfStep(const Task& task, const std::vector<Batch>& batches,
                           distributed::Group& group) {
  for (const Batch& batch : batches) {
    shares_.push_back(task.counts(batch));
  }
  if (shares_.size() == 1 && group.size() == 1) {
    shares_[0].assign(shares_[0].size(), 1.0);
    return;
  }
  totals_ = at::zeros({static_cast<int64_t>(shares_.at(0).size())}, at::kDouble);
  for (const Shares& of_batch : shares_) {
    for (size_t k = 0; k < of_batch.size(); ++k) {
      totals_.mutable_data_ptr<double>()[k] += of_batch[k];
    }
  }
  pending_ = group.start_sum(totals_);
}

const Shares& SharesOfStep::of(size_t i) {
  if (pending_ != nullptr) {
    pending_->wait();
    pending_.reset();
    const double* totals = totals_.const_data_ptr<double>();
    for (Shares& of_batch : shares_) {
      for (size_t k = 0; k < of_batch.size(); ++k) {
        of_batch[k] = totals[k] > 0 ? of_batch[k] / totals[k] : 0;
      }
    }
  }
  return shares_.at(i);
}

Step::Step(const Parts& parts) : parts_(parts) {
  if (parts_.group.size() > 1) {
    sums_ = std::make_unique<GradientSums>(parts_.model.parameters(), parts_.group);
  }
}

int64_t Step::stride() const {
  return parts_.recipe.input_parallel ? 1 : parts_.group.size();
}

int64_t Step::offset() const {
  return parts_.recipe.input_parallel ? 0 : parts_.group.rank();
}

int64_t Step::batches() const {
  return parts_.recipe.accumulate * stride();
}

Step::Result Step::run(int64_t step, int64_t batch, Loader& loader, const std::atomic<bool>* stop) {
  const Recipe& recipe = parts_.recipe;
  std::vector<Batch> batches;
  for (int64_t i = 0; i < recipe.accumulate; ++i) {
    batches.push_back(loader.next());
  }
  SharesOfStep shares(parts_.task, batches, parts_.group);
  Result result;
  for (size_t i = 0; i < batches.size(); ++i) {
    if (sums_ != nullptr && i + 1 == batches.size()) {
      sums_->begin();
    }
    const int64_t index = batch + offset() + static_cast<int64_t>(i) * stride();
    const at::Tensor loss = forward(index, batches[i], shares, i);
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) {
      refuse(step, cat("the loss (batch ", index, ")"), value);
    }
    loss.backward();
    parts_.compute.collect_gradients();
    result.loss += value;
    batches[i] = Batch();
  }
  result.stop = stop != nullptr && *stop;
  if (sums_ != nullptr) {
    join(result);
  }
  result.gradient_norm = clip_gradients(parts_.model.parameters(), recipe.optimiser.clip_norm);
  if (!std::isfinite(result.gradient_norm)) {
    refuse(step, "the norm of the gradients", result.gradient_norm);
  }
  result.learning_rate = recipe.optimiser.learning_rate * schedule_factor(recipe.schedule, step);
  parts_.optimiser.step(result.learning_rate);
  parts_.compute.refresh();
  parts_.average.update(step + 1);
  clear_gradients(parts_.model.parameters());
  return result;
}

at::Tensor Step::forward(int64_t index, const Batch& batch, SharesOfStep& shares, size_t i) {
  // Dropout and mask tokens draw from LibTorch's generator: like all else here, by (seed, index).
  Random random{parts_.recipe.seed, kDropout, static_cast<uint64_t>(index)};
  const at::Device device = parts_.model.options().device;
  at::Generator generator = at::globalContext().defaultGenerator(device);
  generator.set_current_seed(random.next() >> 1);
  const Batch moved = on_device(batch, device);
  return parts_.task.loss(parts_.compute.forward(moved), moved, shares.of(i));
}

// What the processes made becomes the step's: gradients, loss, statistics, the wish to stop.
void Step::join(Result& result) {
  sums_->start_rest();
  const at::Tensor all = at::full({2}, result.stop ? 1.0 : 0.0, at::kDouble);
  all.mutable_data_ptr<double>()[0] = result.loss;
  const auto pending = parts_.group.start_sum(all);  // on its way with the last gradients
  sums_->finish();
  pending->wait();
  result.loss = all.const_data_ptr<double>()[0];
  result.stop = all.const_data_ptr<double>()[1] > 0;
  average_statistics();
}

// Each process moved batch norm's statistics by its own examples; the mean of them is what all go
// on with. (Counts of batches are equal anyway.)
void Step::average_statistics() {
  const c10::AutoGradMode no_gradients(false);
  std::vector<at::Tensor> statistics;
  for (auto& entry : parts_.model.parameters().entries()) {
    if (!entry.info.trainable && entry.tensor.is_floating_point()) {
      statistics.push_back(entry.tensor);
    }
  }
  parts_.group.sum(statistics);
  for (at::Tensor& one : statistics) {
    one.div_(parts_.group.size());
  }
}

void Step::refuse(int64_t step, const std::string& what, double value) const {
  clear_gradients(parts_.model.parameters());
  throw Error(ErrorCode::kArgument,
              cat(printable(parts_.recipe.path.string()), ": ", what, " of step ", step + 1, " is ",
                  value, "; a smaller optimiser.learning_rate or a clip_norm may help"));
}

}  // namespace perceiver::train
