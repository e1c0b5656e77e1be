#include "train/losses.h"

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/tensor.h>

namespace perceiver::train {
namespace {

at::Tensor logits_of(std::vector<double> values, std::vector<int64_t> shape) {
  return at::tensor(values, at::kDouble).reshape(shape);
}

at::Tensor flags(std::vector<int64_t> values, std::vector<int64_t> shape) {
  return at::tensor(values, at::kLong).to(at::kBool).reshape(shape);
}

TEST(Losses, SoftmaxCrossEntropyWithSmoothing) {
  const at::Tensor logits = logits_of({1, 2, 0, 0}, {2, 2});
  const at::Tensor labels = at::tensor(std::vector<int64_t>{1, 0}, at::kLong);
  const double log_sum = std::log(std::exp(1.0) + std::exp(2.0));
  const double plain = ((log_sum - 2) + std::log(2.0)) / 2;
  EXPECT_NEAR(softmax_cross_entropy(logits, labels).item<double>(), plain, 1e-12);
  const double smooth =
      (0.9 * (log_sum - 2) + 0.05 * (log_sum - 1) + 0.05 * (log_sum - 2) + std::log(2.0)) / 2;
  EXPECT_NEAR(softmax_cross_entropy(logits, labels, 0.1).item<double>(), smooth, 1e-12);
}

TEST(Losses, OnlyMaskedPlacesCount) {
  at::Tensor logits = logits_of({5, 1, 0, 3, 9, 9}, {1, 3, 2});
  logits.requires_grad_(true);
  const at::Tensor tokens = at::tensor(std::vector<int64_t>{1, 1, 0}, at::kLong).reshape({1, 3});
  const at::Tensor loss = masked_cross_entropy(logits, tokens, flags({0, 1, 0}, {1, 3}));
  EXPECT_NEAR(loss.item<double>(), std::log1p(std::exp(-3.0)), 1e-12);
  loss.backward();
  const double* gradient = logits.grad().const_data_ptr<double>();
  EXPECT_EQ(gradient[0], 0);
  EXPECT_NE(gradient[2], 0);
  EXPECT_EQ(gradient[4], 0);
}

TEST(Losses, NothingMaskedIsZeroWithZeroGradient) {
  at::Tensor logits = logits_of({5, 1}, {1, 1, 2});
  logits.requires_grad_(true);
  const at::Tensor tokens = at::tensor(std::vector<int64_t>{1}, at::kLong).reshape({1, 1});
  const at::Tensor loss = masked_cross_entropy(logits, tokens, flags({0}, {1, 1}));
  EXPECT_EQ(loss.item<double>(), 0);
  loss.backward();
  EXPECT_EQ(logits.grad().const_data_ptr<double>()[0], 0);
}

}  // namespace
}  // namespace perceiver::train
