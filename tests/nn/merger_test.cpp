#include "perceiver/nn/merger.h"

#include <barrier>
#include <thread>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>

#include "perceiver/base/error.h"
#include "perceiver/nn/model.h"
#include "perceiver/spec/parameters.h"

// Several processes that read one input together compute what one process computes. Here they are
// threads that exchange tensors in memory.

namespace perceiver::nn {
namespace {

/// What the members share.
struct Table {
  explicit Table(int size) : tensors(static_cast<size_t>(size)), all(size) {}
  std::vector<at::Tensor> tensors;
  std::barrier<> all;
};

class Member : public Merger {
 public:
  Member(Table& table, int rank) : table_(table), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(table_.tensors.size()); }
  at::Tensor gather(const at::Tensor& x) override {
    table_.tensors[static_cast<size_t>(rank_)] = x;
    table_.all.arrive_and_wait();
    at::Tensor stacked = at::stack(table_.tensors);
    table_.all.arrive_and_wait();
    return stacked;
  }

 private:
  Table& table_;
  int rank_;
};

ModelSpec picture_spec() {
  ModelSpec spec;
  spec.name = "pictures";
  InputSpec input;
  input.name = "image";
  input.index_dims = {8, 6};
  input.channels = 3;
  input.position.kind = PositionKind::kFourier;
  input.position.num_bands = 3;
  spec.inputs = {input};
  spec.encoder = {
      .num_latents = 5, .latent_channels = 8, .cross_attend = {}, .self_attend = {.num_heads = 2}};
  OutputSpec output;
  output.name = "class";
  output.index_dims = {1};
  output.channels = 8;
  output.single_row = true;
  spec.outputs = {output};
  spec.decoder.output_channels = 4;
  return spec;
}

ModelSpec patches_spec() {
  ModelSpec spec = picture_spec();
  spec.inputs[0].stem = Stem::kPatches;
  spec.inputs[0].downsample = {2, 2};
  spec.inputs[0].out_channels = 5;
  spec.encoder.cross_attend.num_heads = 2;
  spec.encoder.cross_attend.qk_channels = 8;
  spec.pad_inputs = true;
  return spec;
}

ModelSpec learned_spec() {
  ModelSpec spec = picture_spec();
  spec.inputs[0].stem = Stem::kConv1x1;
  spec.inputs[0].out_channels = 6;
  spec.inputs[0].position = PositionSpec();
  spec.inputs[0].position.kind = PositionKind::kTrainable;
  spec.inputs[0].position.num_channels = 4;
  return spec;
}

ModelSpec projected_spec() {
  ModelSpec spec = picture_spec();
  spec.inputs[0].position.num_extra_linears = 1;
  spec.inputs[0].position.project_channels = 7;
  return spec;
}

/// Every third row and second column: the last step of the rows is short.
ModelSpec strided_spec() {
  ModelSpec spec = picture_spec();
  spec.inputs[0].downsample = {3, 2};
  return spec;
}

struct Result {
  at::Tensor output;
  TensorMap grads;
};

Result run(Model& model, const at::Tensor& values, double share) {
  model.parameters().requires_grad(true);
  TensorInputs inputs;
  inputs.arrays["image"] = values;
  Result result;
  result.output = model.forward(inputs).at("class");
  result.output.square().sum().mul(share).backward();
  for (const auto& entry : model.parameters().entries()) {
    result.grads[entry.info.name] = entry.tensor.grad();
  }
  return result;
}

/// All members' results; each gets the whole input or its part.
std::vector<Result> run_together(const ModelSpec& spec, const ArrayMap& weights, Plan plan,
                                 int size, const at::Tensor& values, bool parts) {
  Table table(size);
  std::vector<Result> results(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Member member(table, rank);
      Model model(spec, weights, {.dtype = at::kDouble, .plan = plan});
      model.read_together(&member);
      const InputPart part = input_part(spec.inputs[0], rank, size);
      results[static_cast<size_t>(rank)] = run(
          model, parts ? values.narrow(1, part.begin, part.length).clone() : values, 1.0 / size);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return results;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class ReadTogether : public ::testing::TestWithParam<ModelSpec (*)()> {};

TEST_P(ReadTogether, ForwardAndGradientsEqualOneProcess) {
  const ModelSpec spec = GetParam()();
  const ArrayMap weights = random_parameters(spec, InitScheme::kTransformers, 5, 0.4);
  const at::Tensor values = at::randn({2, 8, 6, 3}, at::kDouble);
  Model alone(spec, weights, {.dtype = at::kDouble, .plan = Plan::kTextbook});
  const Result wanted = run(alone, values, 1);
  for (const Plan plan : {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    for (const int size : {1, 2, 3}) {
      const auto results = run_together(spec, weights, plan, size, values, size == 3);
      for (const Result& result : results) {
        EXPECT_LT(distance(result.output, wanted.output), 1e-11) << plan_name(plan) << ", " << size;
      }
      for (const auto& [name, grad] : wanted.grads) {
        ASSERT_EQ(results[0].grads.at(name).defined(), grad.defined()) << name;
        if (grad.defined()) {
          at::Tensor sum = results[0].grads.at(name);
          for (size_t rank = 1; rank < results.size(); ++rank) {
            sum = sum + results[rank].grads.at(name);
          }
          EXPECT_LT(distance(sum, grad), 1e-10 * (1 + grad.abs().max().item<double>()))
              << name << ", " << plan_name(plan) << ", " << size << " processes";
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, ReadTogether,
                         ::testing::Values(&picture_spec, &patches_spec, &learned_spec,
                                           &projected_spec, &strided_spec));

TEST(InputParts, CoverTheFirstAxisInWholePatches) {
  InputSpec input;
  input.index_dims = {14, 5};
  input.downsample = {2, 1};
  int64_t next = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const InputPart part = input_part(input, rank, 4);
    EXPECT_EQ(part.begin, next);
    EXPECT_EQ(part.length % 2, 0);
    EXPECT_GT(part.length, 0);
    next += part.length;
  }
  EXPECT_EQ(next, 14);
}

TEST(InputParts, WhatCannotBeReadTogetherIsRefusedByName) {
  const auto expect_refused = [](const ModelSpec& spec, int size, const std::string& says) {
    try {
      check_input_parallel(spec, size);
      ADD_FAILURE() << "accepted; wanted: " << says;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  };
  EXPECT_NO_THROW(check_input_parallel(picture_spec(), 8));
  expect_refused(picture_spec(), 9, "8 slice(s) along the first axis");
  ModelSpec spec = picture_spec();
  spec.inputs.push_back(spec.inputs[0]);
  expect_refused(spec, 2, "2 input(s)");
  spec = picture_spec();
  spec.inputs[0].stem = Stem::kConv;
  expect_refused(spec, 2, "convolutions");
  spec = picture_spec();
  spec.encoder.num_cross_attends = 2;
  expect_refused(spec, 2, "reads its input 2 times");
  spec = picture_spec();
  spec.compatibility.attention_dropout = 0.1;
  expect_refused(spec, 2, "attention_dropout 0.1");
  spec = picture_spec();
  spec.outputs[0].query = QueryKind::kInputTokens;
  expect_refused(spec, 2, "output class by the tokens of input image");
}

TEST(InputParts, ASizeThatIsNoPartIsAnError) {
  Table table(2);
  Member member(table, 0);
  const ModelSpec spec = picture_spec();
  Model model(spec, random_parameters(spec, InitScheme::kTransformers, 5, 0.4));
  model.read_together(&member);
  TensorInputs inputs;
  inputs.arrays["image"] = at::randn({1, 5, 6, 3});
  EXPECT_THROW(model.preprocess(inputs), Error);
}

}  // namespace
}  // namespace perceiver::nn
