#include "train/step.h"

#include <cmath>

#include <ATen/Context.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/random.h"
#include "train/schedule.h"

namespace perceiver::train {

int64_t Step::first_batch(int64_t step) const {
  return step * parts_.recipe.accumulate * parts_.group.size() + parts_.group.rank();
}

Step::Result Step::run(int64_t step, Loader& loader) {
  const Recipe& recipe = parts_.recipe;
  std::vector<Batch> batches;
  for (int64_t i = 0; i < recipe.accumulate; ++i) {
    batches.push_back(loader.next());
  }
  const std::vector<Shares> shares = shares_of(batches);
  Result result;
  for (size_t i = 0; i < batches.size(); ++i) {
    const int64_t index = first_batch(step) + static_cast<int64_t>(i) * parts_.group.size();
    result.loss += backward(step, index, batches[i], shares[i]);
    batches[i] = Batch();
  }
  if (parts_.group.size() > 1) {
    std::vector<double> loss{result.loss};
    parts_.group.sum(loss);
    result.loss = loss[0];
    sum_gradients();
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

// What each batch contributes to the means over the whole step.
std::vector<Shares> Step::shares_of(const std::vector<Batch>& batches) const {
  std::vector<Shares> shares;
  if (batches.size() == 1 && parts_.group.size() == 1) {
    const size_t means = parts_.task.counts(batches[0]).size();
    shares.emplace_back(means, 1.0);
    return shares;
  }
  Counts totals;
  for (const Batch& batch : batches) {
    shares.push_back(parts_.task.counts(batch));
    totals.resize(shares.back().size(), 0);
    for (size_t k = 0; k < totals.size(); ++k) {
      totals[k] += shares.back()[k];
    }
  }
  parts_.group.sum(totals);
  for (Shares& of_batch : shares) {
    for (size_t k = 0; k < totals.size(); ++k) {
      of_batch[k] = totals[k] > 0 ? of_batch[k] / totals[k] : 0;
    }
  }
  return shares;
}

double Step::backward(int64_t step, int64_t index, const Batch& batch, const Shares& shares) {
  // Dropout and mask tokens draw from LibTorch's generator: like all else here, by (seed, index).
  Random random{parts_.recipe.seed, kDropout, static_cast<uint64_t>(index)};
  const at::Device device = parts_.model.options().device;
  at::Generator generator = at::globalContext().defaultGenerator(device);
  generator.set_current_seed(random.next() >> 1);
  const Batch moved = on_device(batch, device);
  const at::Tensor loss = parts_.task.loss(parts_.compute.forward(moved), moved, shares);
  const auto value = loss.item<double>();
  if (!std::isfinite(value)) {
    refuse(step, cat("the loss (batch ", index, ")"), value);
  }
  loss.backward();
  parts_.compute.collect_gradients();
  return value;
}

void Step::sum_gradients() {
  std::vector<at::Tensor> gradients;
  for (auto& entry : parts_.model.parameters().entries()) {
    if (entry.tensor.grad().defined()) {
      gradients.push_back(entry.tensor.grad());
    }
  }
  parts_.group.sum(gradients);
}

void Step::refuse(int64_t step, const std::string& what, double value) const {
  clear_gradients(parts_.model.parameters());
  throw Error(ErrorCode::kArgument,
              cat(printable(parts_.recipe.path.string()), ": ", what, " of step ", step + 1, " is ",
                  value, "; a smaller optimiser.learning_rate or a clip_norm may help"));
}

}  // namespace perceiver::train
