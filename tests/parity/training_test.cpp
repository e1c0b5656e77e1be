#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/l1_loss.h>
#include <ATen/ops/mse_loss.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/str.h"
#include "perceiver/distributed/group.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/forward.h"
#include "support/compare.h"
#include "train/average.h"
#include "train/losses.h"
#include "train/schedule.h"
#include "train/step.h"

// Ten steps of training against PyTorch's: tools/oracle/training.py writes models, batches and
// results, ctest runs it first. Ours go through the trainer's own step.

namespace perceiver::parity {
namespace {

namespace fs = std::filesystem;
using nn::TensorMap;
using nn::to_tensor;

constexpr int64_t kSteps = 10;
constexpr int64_t kBatches = 2;

fs::path oracle_folder() {
  return fs::path(PERCEIVER_BINARY_DIR) / "oracle/training";
}

using Loss = std::function<at::Tensor(const TensorMap& outputs, const train::Batch& batch)>;

at::Tensor cross_entropy(const TensorMap& outputs, const train::Batch& batch) {
  return train::softmax_cross_entropy(outputs.begin()->second, batch.targets.at("logits"), 0.1);
}

at::Tensor masked(const TensorMap& outputs, const train::Batch& batch) {
  return train::masked_cross_entropy(outputs.begin()->second, batch.targets.at("logits"),
                                     batch.mask);
}

at::Tensor end_point_error(const TensorMap& outputs, const train::Batch& batch) {
  return (outputs.begin()->second - batch.targets.at("logits")).square().sum(-1).sqrt().mean();
}

at::Tensor weighted(const TensorMap& outputs, const train::Batch& batch) {
  const auto flat = [](const at::Tensor& tensor) { return tensor.flatten(1); };
  return at::l1_loss(flat(outputs.at("audio")), flat(batch.targets.at("audio"))) +
         0.5 * at::mse_loss(flat(outputs.at("image")), flat(batch.targets.at("image"))) +
         0.1 * train::softmax_cross_entropy(outputs.at("label"), batch.targets.at("label"));
}

struct Case {
  const char* folder;
  Loss loss;
};

std::vector<Case> cases() {
  return {{"language", masked},
          {"sequence_classification", cross_entropy},
          {"vision_learned", cross_entropy},
          {"vision_fourier", cross_entropy},
          {"vision_conv", cross_entropy},
          {"optical_flow", end_point_error},
          {"multimodal", weighted},
          {"original", cross_entropy}};
}

TensorMap to_tensors(const ArrayMap& arrays, at::ScalarType floats) {
  TensorMap tensors;
  for (const auto& [name, array] : arrays) {
    const at::Tensor tensor = to_tensor(array);
    tensors[name] = tensor.is_floating_point() ? tensor.to(floats) : tensor;
  }
  return tensors;
}

/// The batches of an oracle, over and over.
class RecordedTask : public train::Task {
 public:
  RecordedTask(const ModelSpec& spec, const ArrayMap& recorded, Loss loss, at::ScalarType type)
      : loss_(std::move(loss)) {
    for (int64_t i = 0; i < kBatches; ++i) {
      batches_.push_back(read(spec, recorded, i, type));
    }
  }

  train::Batch training_batch(int64_t index) override {
    return batches_.at(static_cast<size_t>(index % kBatches));
  }
  at::Tensor loss(const TensorMap& outputs, const train::Batch& batch,
                  const train::Shares& shares) const override {
    return loss_(outputs, batch).mul(shares.at(0));
  }
  int64_t test_examples() const override { return 0; }
  train::Metrics evaluate(nn::Model& /*model*/, int64_t /*limit*/,
                          const ProgressFn& /*progress*/) const override {
    return {};
  }

 private:
  static train::Batch read(const ModelSpec& spec, const ArrayMap& recorded, int64_t index,
                           at::ScalarType type) {
    ArrayMap inputs;
    ArrayMap targets;
    for (const auto& [name, array] : recorded) {
      for (const auto& [kind, into] : {std::pair("in", &inputs), std::pair("target", &targets)}) {
        const std::string head = cat(kind, ".", index, ".");
        if (name.starts_with(head)) {
          into->emplace(name.substr(head.size()), array);
        }
      }
    }
    const tasks::ForwardCall call = tasks::forward_call(
        spec, inputs, {.double_precision = type == at::kDouble, .progress = {}});
    train::Batch batch;
    batch.inputs = {to_tensors(call.inputs.arrays, type), to_tensors(call.inputs.masks, type), {}};
    batch.request.points = call.request.points;
    batch.targets = to_tensors(targets, type);
    if (const auto mask = recorded.find(cat("mask.", index)); mask != recorded.end()) {
      batch.mask = to_tensor(mask->second);
    }
    return batch;
  }

  Loss loss_;
  std::vector<train::Batch> batches_;
};

/// What training.py states at its top.
train::Recipe recipe() {
  train::Recipe recipe;
  recipe.path = "oracle";
  recipe.optimiser.learning_rate = 2e-3;
  recipe.optimiser.beta1 = 0.9;
  recipe.optimiser.beta2 = 0.98;
  recipe.optimiser.weight_decay = 0.05;
  recipe.optimiser.clip_norm = 1;
  recipe.optimiser.epsilon = 1e-4;
  recipe.schedule = {.kind = train::ScheduleKind::kCosine,
                     .steps = kSteps,
                     .warmup_steps = 2,
                     .end_fraction = 0.1,
                     .milestones = {}};
  return recipe;
}

struct Trained {
  std::vector<double> losses;
  ArrayMap weights;
};

Trained train_ours(const fs::path& folder, const Loss& loss, at::ScalarType type) {
  const tasks::Bundle start = tasks::load_bundle(folder / "start");
  const DType tables = type == at::kDouble ? DType::kF64 : DType::kF32;
  nn::Model model(start.spec, start.weights, {.dtype = type, .tables = tables});
  model.parameters().requires_grad(true);
  RecordedTask task(start.spec, io::read_safetensors(folder / "io.safetensors"), loss, type);
  const train::Recipe settings = recipe();
  train::Optimiser optimiser(settings.optimiser, model.parameters());
  train::AveragedWeights average(0, model.parameters());
  train::ComputeModel compute(model, at::kFloat);
  const auto group = distributed::alone();
  train::Step step({settings, task, model, compute, optimiser, average, *group});
  train::Loader loader(task, 0, 1, 0);
  Trained trained;
  for (int64_t i = 0; i < kSteps; ++i) {
    trained.losses.push_back(step.run(i, i, loader, nullptr).loss);
  }
  trained.weights = model.parameters().to_arrays();
  return trained;
}

class TrainingOracle : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!fs::exists(oracle_folder())) {
      GTEST_SKIP() << "needs PyTorch's results: python tools/oracle/training.py "
                   << oracle_folder().string();
    }
  }
};

// Largest difference of two runs' losses.
double apart_at_most(const ArrayMap& recorded, const std::string& a, const std::string& b) {
  return test::difference(recorded.at(a), recorded.at(b)).max_abs;
}

// In float64 to the last bits that files keep. In float32 to 1e-5, and a few times as far as
// PyTorch's own float32 run ends from its float64 one: rounding grows from step to step.
TEST_P(TrainingOracle, TenStepsAreTheirs) {
  const fs::path folder = oracle_folder() / GetParam().folder;
  const ArrayMap recorded = io::read_safetensors(folder / "io.safetensors");
  const ArrayMap start = tasks::load_bundle(folder / "start").weights;
  for (const auto& [kind, type, bar] :
       {std::tuple("f64", at::kDouble, 1e-9), std::tuple("f32", at::kFloat, 1e-5)}) {
    const Trained ours = train_ours(folder, GetParam().loss, type);
    const double* losses = recorded.at("f64.losses").data<double>();
    const double rounding = 4 * apart_at_most(recorded, cat(kind, ".losses"), "f64.losses");
    for (size_t i = 0; i < ours.losses.size(); ++i) {
      EXPECT_NEAR(ours.losses[i], losses[i], bar * std::abs(losses[i]) + rounding)
          << kind << " step " << i;
    }
    double moved = 0;
    const ArrayMap theirs = tasks::load_bundle(folder / kind).weights;
    for (const auto& [name, wanted] : tasks::load_bundle(folder / "f64").weights) {
      if (test::difference(start.at(name), wanted).max_abs == 0) {
        continue;  // without a gradient: PyTorch leaves it alone, we decay it as optax does
      }
      const test::Difference apart = test::difference(ours.weights.at(name), wanted);
      const double theirs_apart = test::difference(theirs.at(name), wanted).max_abs;
      EXPECT_LE(apart.max_abs, std::max(bar, 2e-7) * test::max_abs(wanted) + 4 * theirs_apart)
          << kind << " " << name << " " << apart.text;
      moved = std::max(moved, test::difference(start.at(name), wanted).max_abs);
    }
    EXPECT_GT(moved, 5e-3) << "nothing was learned";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TrainingOracle, ::testing::ValuesIn(cases()),
                         [](const auto& each) { return std::string(each.param.folder); });

class OptimiserOracle : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(oracle_folder())) {
      GTEST_SKIP() << "needs PyTorch's and NumPy's results: python tools/oracle/training.py";
    }
    recorded_ = io::read_safetensors(oracle_folder() / "optimisers.safetensors");
  }

  at::Tensor recorded(const std::string& name) const { return to_tensor(recorded_.at(name)); }

  nn::Parameters parameter(const at::Tensor& value) const {
    nn::Parameters parameters;
    ParameterInfo info;
    info.name = "decoder.final.weight";
    info.shape = value.sizes().vec();
    parameters.add(info, value.clone());
    parameters.requires_grad(true);
    return parameters;
  }

  void expect_like(const std::string& name, const train::OptimiserSpec& spec, bool from_zero) {
    const at::Tensor start = recorded("start");
    nn::Parameters parameters = parameter(from_zero ? start * 0 : start);
    train::Optimiser optimiser(spec, parameters);
    const at::Tensor gradients = recorded("gradients");
    const double* rates = recorded_.at("rates").data<double>();
    for (int64_t i = 0; i < kSteps; ++i) {
      parameters.entries()[0].tensor.mutable_grad() = gradients[i].clone();
      optimiser.step(rates[i]);
    }
    expect_near(parameters.entries()[0].tensor.detach(), name);
  }

  void expect_near(const at::Tensor& found, const std::string& name) const {
    EXPECT_LT((found - recorded(name)).abs().max().item<double>(), 1e-12) << name;
  }

  ArrayMap recorded_;
};

TEST_F(OptimiserOracle, EveryOptimiserIsTheirs) {
  train::OptimiserSpec spec;
  spec.weight_decay = 0.1;
  spec.beta2 = 0.99;
  spec.kind = train::OptimiserKind::kLamb;
  expect_like("lamb", spec, false);
  expect_like("lamb.zero", spec, true);
  spec.kind = train::OptimiserKind::kAdamW;
  expect_like("adamw", spec, false);
  spec.kind = train::OptimiserKind::kSgd;
  spec.momentum = 0.8;
  expect_like("sgd", spec, false);
  spec.nesterov = true;
  expect_like("nesterov", spec, false);
}

TEST_F(OptimiserOracle, SchedulesAndClippingAreTheirs) {
  const double* rates = recorded_.at("rates").data<double>();
  const double* norms = recorded_.at("norms").data<double>();
  const at::Tensor gradients = recorded("gradients");
  for (int64_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(0.05 * train::schedule_factor(recipe().schedule, i), rates[i], 1e-15);
    nn::Parameters parameters = parameter(recorded("start"));
    at::Tensor& tensor = parameters.entries()[0].tensor;
    tensor.mutable_grad() = gradients[i].clone();
    EXPECT_NEAR(train::clip_gradients(parameters, 3), norms[i], 1e-12);
    EXPECT_LT((tensor.grad() - recorded("clipped")[i]).abs().max().item<double>(), 1e-12);
  }
}

TEST_F(OptimiserOracle, TheWeightAverageIsTheirs) {
  const at::Tensor values = recorded("gradients");
  nn::Parameters parameters = parameter(values[0]);
  train::AveragedWeights average(0.5, parameters);
  const c10::AutoGradMode no_gradients(false);
  for (int64_t i = 1; i < kSteps; ++i) {
    parameters.entries()[0].tensor.copy_(values[i]);
    average.update(i);
  }
  average.swap();
  expect_near(parameters.entries()[0].tensor.detach(), "average");
}

}  // namespace
}  // namespace perceiver::parity
