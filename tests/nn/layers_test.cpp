#include "nn/layers.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

// The layers over wide latents, whose products are seven of quarters for eight, against the same
// functions in float64, where they are as defined.

namespace perceiver::nn {
namespace {

constexpr int64_t kRows = 300, kWidth = 1024;  // more than a group of rows, no multiple of one

double relative_error(const at::Tensor& value, const at::Tensor& exact) {
  const at::Tensor difference = value.to(at::kDouble) - exact;
  return (difference.norm() / exact.norm()).item<double>();
}

at::Tensor normal(at::IntArrayRef shape, double scale = 1) {
  return at::randn(shape, at::TensorOptions().dtype(at::kDouble)) * scale;
}

TEST(Products, SevenAgreeWithTheDefinitionHoweverMatricesLie) {
  const at::Tensor a = normal({kRows, kWidth}), b = normal({kWidth, kWidth + 64});
  const at::Tensor bias = normal({kWidth + 64}), sum = normal({kRows, kWidth + 64});
  const at::Tensor exact = a.mm(b);
  const auto by_rows = [](const at::Tensor& x) { return x.to(at::kFloat); };
  const auto by_columns = [](const at::Tensor& x) { return x.to(at::kFloat).t().contiguous().t(); };
  const at::Tensor plain = multiply(by_rows(a), by_rows(b), ProductOrder::kPlain);
  EXPECT_TRUE(plain.equal(at::mm(by_rows(a), by_rows(b))));
  for (const at::Tensor& left : {by_rows(a), by_columns(a)}) {
    for (const at::Tensor& right : {by_rows(b), by_columns(b)}) {
      const at::Tensor seven = multiply(left, right, ProductOrder::kSeven);
      EXPECT_FALSE(seven.equal(plain)) << "not by seven products";
      EXPECT_LT(relative_error(seven, exact), 1e-6);
      EXPECT_LT(relative_error(multiply(left, right, ProductOrder::kSeven, bias.to(at::kFloat)),
                               exact + bias),
                1e-6);
      at::Tensor added = sum.to(at::kFloat);
      add_product(added, left, right, ProductOrder::kSeven);
      EXPECT_LT(relative_error(added, exact + sum), 1e-6);
    }
  }
}

TEST(Products, WhatTheKernelDoesNotWalkIsMultipliedAsDefined) {
  const at::Tensor a = normal({kRows, kWidth}).to(at::kFloat);
  const at::Tensor wide = normal({kWidth, 2 * kWidth}).to(at::kFloat);
  const at::Tensor gaps = wide.as_strided({kWidth, kWidth}, {2 * kWidth, 2});
  const at::Tensor row = wide.narrow(0, 0, 1).narrow(1, 0, kWidth).expand({kWidth, kWidth});
  for (const at::Tensor& b : {gaps, row}) {
    EXPECT_TRUE(multiply(a, b, ProductOrder::kSeven).equal(at::mm(a, b)));
  }
  const at::Tensor narrow = wide.narrow(1, 0, 512);
  EXPECT_TRUE(multiply(a, narrow, ProductOrder::kSeven).equal(at::mm(a, narrow)));
}

/// x [2, rows, width], LayerNorm's weight and bias, then weight and bias of two maps.
std::vector<at::Tensor> layer() {
  std::vector<at::Tensor> made{normal({2, kRows / 2, kWidth}), normal({kWidth}) + 1,
                               normal({kWidth})};
  for (int i = 0; i < 2; ++i) {
    made.push_back(normal({kWidth, kWidth}, 1 / 32.0));
    made.push_back(normal({kWidth}));
  }
  return made;
}

std::vector<at::Tensor> leaves(const std::vector<at::Tensor>& tensors, at::ScalarType type) {
  std::vector<at::Tensor> made;
  for (const at::Tensor& tensor : tensors) {
    made.push_back(tensor.to(type).clone().requires_grad_(true));
  }
  return made;
}

using Function = std::vector<at::Tensor> (*)(const std::vector<at::Tensor>& w, ProductOrder order);

std::vector<at::Tensor> two_maps(const std::vector<at::Tensor>& w, ProductOrder order) {
  return norm_linears(w[0], {w[1], w[2]}, {{w[3], w[4], order}, {w[5], w[6], order}});
}

std::vector<at::Tensor> mlp(const std::vector<at::Tensor>& w, ProductOrder order) {
  return {residual_mlp(w[0], {w[1], w[2]}, {w[3], w[4], order}, {w[5], w[6], order},
                       Activation::kGeluErf)};
}

std::vector<at::Tensor> joined(const std::vector<at::Tensor>& w, ProductOrder order) {
  const at::Tensor heads = (w[0] * w[1] + w[2]).view({2, kRows / 2, 8, kWidth / 8});
  return {joined_linear(heads.transpose(1, 2), {w[3], w[4], order}, w[0])};
}

/// Results, and the gradients of a function of them.
std::vector<at::Tensor> results_and_gradients(Function function, const std::vector<at::Tensor>& of,
                                              at::ScalarType type) {
  const std::vector<at::Tensor> w = leaves(of, type);
  std::vector<at::Tensor> all = function(w, ProductOrder::kSeven);
  at::Tensor sum;
  for (const at::Tensor& result : all) {
    const at::Tensor part = (result * (result - 1)).sum();
    sum = sum.defined() ? sum + part : part;
  }
  sum.backward();
  for (const at::Tensor& leaf : w) {
    if (leaf.grad().defined()) {
      all.push_back(leaf.grad());
    }
  }
  return all;
}

TEST(WideLayers, ResultsAndGradientsAreThoseOfFloat64) {
  for (const Function function : {Function{two_maps}, Function{mlp}, Function{joined}}) {
    const std::vector<at::Tensor> of = layer();
    const auto exact = results_and_gradients(function, of, at::kDouble);
    const auto seven = results_and_gradients(function, of, at::kFloat);
    ASSERT_EQ(seven.size(), exact.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_LT(relative_error(seven[i].detach(), exact[i].detach()), 3e-6) << i;
    }
  }
}

TEST(WideLayers, WithoutGradientsTheSameBytes) {
  const std::vector<at::Tensor> of = layer();
  for (const Function function : {Function{two_maps}, Function{mlp}, Function{joined}}) {
    const std::vector<at::Tensor> w = leaves(of, at::kFloat);
    const auto with = function(w, ProductOrder::kSeven);
    const at::NoGradGuard no_grad;
    const auto without = function(w, ProductOrder::kSeven);
    for (size_t i = 0; i < with.size(); ++i) {
      EXPECT_TRUE(with[i].equal(without[i]));
    }
  }
}

}  // namespace
}  // namespace perceiver::nn
