#include "train/tasks/tensor_losses.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cross_entropy_loss.h>

namespace perceiver::train {
namespace {

constexpr int64_t kNoReduction = 0;    // at::Reduction::None
constexpr int64_t kIgnoreNone = -100;  // no label has this value

/// The loss at every place of the target.
at::Tensor losses(const TensorOutput& output, const at::Tensor& given, const at::Tensor& wanted) {
  switch (output.loss) {
    case TensorLoss::kCrossEntropy:
      return at::cross_entropy_loss(given.flatten(0, -2), wanted.flatten(), {}, kNoReduction,
                                    kIgnoreNone, output.label_smoothing)
          .view(wanted.sizes());
    case TensorLoss::kBinary:
      return at::binary_cross_entropy_with_logits(given, wanted, {}, {}, kNoReduction);
    case TensorLoss::kMse:
      return (given - wanted).square();
    case TensorLoss::kL1:
      break;
  }
  return (given - wanted).abs();
}

at::Tensor grown(const at::Tensor& counts, int64_t length) {
  return at::constant_pad_nd(counts, {0, std::max<int64_t>(0, length - counts.size(0))});
}

}  // namespace

std::vector<int64_t> target_shape(TensorLoss loss, std::vector<int64_t> output) {
  if (loss == TensorLoss::kCrossEntropy) {
    output.pop_back();
  }
  return output;
}

at::Tensor mean_loss(const TensorOutput& output, const at::Tensor& given, const Target& wanted) {
  const at::Tensor counts = wanted.counts.to(given.scalar_type());
  const at::Tensor sum = losses(output, given, wanted.values).mul(counts).sum();
  return sum.div(counts.sum().clamp_min(1));
}

void OutputTally::learn(const Target& wanted) {
  if (tells_classes()) {
    const at::Tensor chosen = wanted.values.masked_select(wanted.counts).round().to(at::kLong);
    const at::Tensor found = at::bincount(chosen, {}, 2);
    if (!histogram_.defined()) {
      histogram_ = found;
    } else {
      const int64_t length = std::max(histogram_.size(0), found.size(0));
      histogram_ = grown(histogram_, length) + grown(found, length);
    }
    return;
  }
  // values are 0 where they do not count
  const at::Tensor sum = wanted.values.sum({0}, false, at::kDouble);
  const at::Tensor seen = wanted.counts.sum({0}, false, at::kDouble);
  sum_ = sum_.defined() ? sum_ + sum : sum;
  seen_ = seen_.defined() ? seen_ + seen : seen;
}

void OutputTally::add(const at::Tensor& given, const Target& wanted) {
  const auto total = [&](const at::Tensor& values) {
    return values.to(at::kDouble).mul(wanted.counts).sum().item<double>();
  };
  TensorOutput plain = output_;
  plain.label_smoothing = 0;
  count_ += wanted.counts.sum().item<double>();
  loss_ += total(losses(plain, given, wanted.values));
  if (output_.loss == TensorLoss::kCrossEntropy) {
    right_ += total(given.argmax(-1).eq(wanted.values));
  } else if (output_.loss == TensorLoss::kBinary) {
    right_ += total(given.gt(0).eq(wanted.values.gt(0.5)));
  } else {
    const at::Tensor mean = (sum_ / seen_.clamp_min(1)).to(at::kFloat).unsqueeze(0);
    constant_loss_ += total(losses(plain, mean.expand_as(wanted.values), wanted.values));
  }
}

Metrics OutputTally::metrics() const {
  const std::string& name = output_.output;
  const double n = std::max(1.0, count_);
  if (tells_classes()) {
    return {{name + "_accuracy", right_ / n},
            {name + "_majority_accuracy", histogram_.max().item<double>() / n},
            {name + "_loss", loss_ / n}};
  }
  if (output_.loss == TensorLoss::kMse) {
    return {{name + "_rmse", std::sqrt(loss_ / n)},
            {name + "_mean_rmse", std::sqrt(constant_loss_ / n)}};
  }
  return {{name + "_mae", loss_ / n}, {name + "_mean_mae", constant_loss_ / n}};
}

}  // namespace perceiver::train
