#include "nn/layers.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "nn/neighbours.h"

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

/// The same maps in one memory; gradients reach the leaves through what put them there.
std::vector<at::Tensor> two_maps_together(const std::vector<at::Tensor>& w, ProductOrder order) {
  const at::Tensor weights = at::cat({w[3], w[5]}), biases = at::cat({w[4], w[6]});
  const auto part = [](const at::Tensor& of, int64_t i) {
    return of.narrow(0, i * kWidth, kWidth);
  };
  std::vector<at::Tensor> made = norm_linears(
      w[0], {w[1], w[2]},
      {{part(weights, 0), part(biases, 0), order}, {part(weights, 1), part(biases, 1), order}});
  EXPECT_TRUE(as_columns({made[0].flatten(0, 1), made[1].flatten(0, 1)}).defined())
      << "not one product";
  return made;
}

std::vector<at::Tensor> mlp(const std::vector<at::Tensor>& w, ProductOrder order) {
  return {residual_mlp(w[0], {w[1], w[2]}, {w[3], w[4], order}, {w[5], w[6], order},
                       Activation::kGeluErf)};
}

std::vector<at::Tensor> joined(const std::vector<at::Tensor>& w, ProductOrder order) {
  const at::Tensor heads = (w[0] * w[1] + w[2]).view({2, kRows / 2, 8, kWidth / 8});
  return {joined_linear(heads.transpose(1, 2), {w[3], w[4], order}, w[0])};
}

constexpr Function kFunctions[] = {two_maps, two_maps_together, mlp, joined};

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
  for (const Function function : kFunctions) {
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
  for (const Function function : kFunctions) {
    const std::vector<at::Tensor> w = leaves(of, at::kFloat);
    const auto with = function(w, ProductOrder::kSeven);
    const at::NoGradGuard no_grad;
    const auto without = function(w, ProductOrder::kSeven);
    for (size_t i = 0; i < with.size(); ++i) {
      EXPECT_TRUE(with[i].equal(without[i]));
    }
  }
}

/// As after attention: gradients lie as the results do.
TEST(WideLayers, MapsInOneMemoryTakeGradientsInOneToo) {
  const at::Tensor weights = normal({2 * kWidth, kWidth}, 1 / 32.0).to(at::kFloat);
  const at::Tensor biases = normal({2 * kWidth}).to(at::kFloat);
  const at::Tensor x = normal({1, kRows, kWidth}).to(at::kFloat);
  const auto leaf = [](const at::Tensor& of, int64_t i) {
    return of.narrow(0, i * kWidth, kWidth).variable_data().requires_grad_(true);
  };
  const std::vector<at::Tensor> w{leaf(weights, 0), leaf(weights, 1)};
  const std::vector<at::Tensor> b{leaf(biases, 0), leaf(biases, 1)};
  const at::Tensor ones = at::ones({kWidth}), zeros = at::zeros({kWidth});
  const auto made = norm_linears(
      x, {ones, zeros}, {{w[0], b[0], ProductOrder::kSeven}, {w[1], b[1], ProductOrder::kSeven}});
  const at::Tensor grad = normal({1, kRows, 2 * kWidth}).to(at::kFloat);
  torch::autograd::backward({made[0], made[1]},
                            {grad.narrow(2, 0, kWidth), grad.narrow(2, kWidth, kWidth)});
  const at::Tensor together = as_rows({w[0].grad(), w[1].grad()});
  ASSERT_TRUE(together.defined()) << "not one product";
  const at::Tensor wide = x.to(at::kDouble)[0];
  const at::Tensor normed = (wide - wide.mean(1, true)) / (wide.var(1, false, true) + 1e-5).sqrt();
  EXPECT_LT(relative_error(together, grad[0].to(at::kDouble).t().mm(normed)), 3e-6);
  EXPECT_TRUE(b[1].grad().allclose(grad[0].narrow(1, kWidth, kWidth).sum(0), 1e-4, 1e-4));
}

}  // namespace
}  // namespace perceiver::nn
