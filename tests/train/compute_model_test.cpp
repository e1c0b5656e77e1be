#include "train/compute_model.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <c10/core/Allocator.h>
#include <c10/core/GradMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "perceiver/base/error.h"
#include "perceiver/nn/device.h"
#include "perceiver/spec/parameters.h"
#include "train/tiny.h"
#include "train/training.h"

namespace perceiver::train {
namespace {

using ::testing::HasSubstr;

ModelSpec deep_series(int64_t layers) {
  Json json = test::series_recipe()["model"]["spec"];
  json["encoder"]["num_self_attends_per_block"] = layers;
  return spec_from_json(json, "spec");
}

ModelSpec conv_pictures() {
  return spec_from_json(Json::parse(R"({
    "name": "conv",
    "inputs": [{"name": "sensors", "kind": "grid", "index_dims": [16, 16], "channels": 3,
                "stem": "conv", "out_channels": 8,
                "position": {"kind": "fourier", "num_bands": 2}}],
    "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2}},
    "decoder": {"output_channels": 3},
    "outputs": [{"name": "state", "query": "learned", "index_dims": [1], "channels": 16,
                 "single_row": true}]})"),
                        "spec");
}

Batch waves(const ModelSpec& spec, int64_t count) {
  std::vector<int64_t> shape = spec.inputs[0].index_dims;
  shape.insert(shape.begin(), count);
  shape.push_back(spec.inputs[0].channels);
  int64_t values = 1;
  for (const int64_t extent : shape) {
    values *= extent;
  }
  Batch batch;
  batch.inputs.arrays["sensors"] = at::arange(values, at::kFloat).mul(0.37).sin().reshape(shape);
  return batch;
}

nn::Model make_model(const ModelSpec& spec, bool recompute = false) {
  nn::Model model(spec, random_parameters(spec, InitScheme::kTransformers, 1, 0.2),
                  {.recompute_layers = recompute});
  model.parameters().requires_grad(true);
  return model;
}

at::Tensor square_sum(const nn::TensorMap& outputs) {
  at::Tensor sum;
  for (const auto& [name, output] : outputs) {
    const at::Tensor squares = output.square().sum();
    sum = sum.defined() ? sum + squares : squares;
  }
  return sum;
}

void backward(ComputeModel& compute, const Batch& batch) {
  square_sum(compute.forward(batch)).backward();
  compute.collect_gradients();
}

double relative(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).norm().item<double>() / std::max(1e-12, b.norm().item<double>());
}

void expect_near_gradients(const nn::Model& found, const nn::Model& wanted, double bar) {
  for (size_t i = 0; i < wanted.parameters().entries().size(); ++i) {
    const auto& entry = wanted.parameters().entries()[i];
    const at::Tensor& gradient = found.parameters().entries()[i].tensor.grad();
    if (!entry.tensor.grad().defined()) {
      EXPECT_FALSE(gradient.defined()) << entry.info.name;
      continue;
    }
    ASSERT_TRUE(gradient.defined()) << entry.info.name;
    if (bar > 1e-6 && entry.info.name.ends_with("key.bias")) {
      continue;  // softmax takes no notice of it: the gradient is nothing but rounding
    }
    EXPECT_EQ(gradient.scalar_type(), at::kFloat) << entry.info.name;
    EXPECT_LT(relative(gradient, entry.tensor.grad()), bar) << entry.info.name;
  }
}

TEST(ComputeModel, InFloat32IsTheModelItself) {
  const ModelSpec spec = deep_series(2);
  nn::Model model = make_model(spec);
  nn::Model plain = make_model(spec);
  ComputeModel compute(model, at::kFloat);
  const Batch batch = waves(spec, 3);
  backward(compute, batch);
  plain.set_training(true);
  square_sum(plain.forward(batch.inputs)).backward();
  expect_near_gradients(model, plain, 1e-30);
}

TEST(ComputeModel, InBfloat16GradientsReachTheMastersInFloat32) {
  for (const ModelSpec& spec : {deep_series(2), conv_pictures()}) {
    nn::Model wide = make_model(spec);
    nn::Model masters = make_model(spec);
    const Batch batch = waves(spec, 3);
    ComputeModel exact(wide, at::kFloat);
    ComputeModel narrow(masters, at::kBFloat16);
    for (int i = 0; i < 2; ++i) {  // two micro-batches
      backward(exact, batch);
      backward(narrow, batch);
    }
    expect_near_gradients(masters, wide, 0.15);
    for (const auto& entry : masters.parameters().entries()) {
      EXPECT_NE(entry.tensor.scalar_type(), at::kBFloat16) << entry.info.name;
      if (!entry.info.trainable && entry.tensor.is_floating_point()) {  // running averages
        EXPECT_LT(relative(entry.tensor, wide.parameters().at(entry.info.name)), 0.05)
            << entry.info.name;
      }
    }
  }
}

TEST(ComputeModel, TheTwinFollowsItsMasters) {
  const ModelSpec spec = deep_series(1);
  nn::Model masters = make_model(spec);
  ComputeModel narrow(masters, at::kBFloat16);
  const Batch batch = waves(spec, 2);
  const at::Tensor before = narrow.forward(batch).at("state").detach().clone();
  EXPECT_EQ(before.scalar_type(), at::kFloat);
  {
    const c10::AutoGradMode no_gradients(false);
    for (auto& entry : masters.parameters().entries()) {
      entry.tensor.mul_(1.5);
    }
  }
  narrow.refresh();
  const at::Tensor after = narrow.forward(batch).at("state").detach();
  ComputeModel exact(masters, at::kFloat);
  EXPECT_GT(relative(before, after), 0.1);
  EXPECT_LT(relative(after, exact.forward(batch).at("state").detach()), 0.05);
}

// Bytes of tensors alive at once, by LibTorch's own accounts.
class Account : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*ptr*/, int64_t size, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device /*device*/) override {
    alive_ += size;
    peak_ = std::max(peak_, alive_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t alive_ = 0, peak_ = 0;
};

int64_t peak_of_a_step(nn::Model& model, const Batch& batch) {
  const auto account = std::make_shared<Account>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, account);
  ComputeModel compute(model, at::kFloat);
  backward(compute, batch);
  return account->peak();
}

TEST(Recompute, KeepsGradientsToTheBitAndTakesLessMemory) {
  const ModelSpec spec = deep_series(12);
  const Batch batch = waves(spec, 32);
  nn::Model keeps = make_model(spec);
  nn::Model recomputes = make_model(spec, true);
  const int64_t kept = peak_of_a_step(keeps, batch);
  const int64_t recomputed = peak_of_a_step(recomputes, batch);
  expect_near_gradients(recomputes, keeps, 1e-30);
  EXPECT_LT(recomputed, kept / 2) << "of " << kept << " bytes";
}

class Arithmetic : public test::Training {};

TEST_F(Arithmetic, RecomputeIsTheSameRunToTheBit) {
  Json json = test::series_recipe();
  json["steps"] = 6;
  run(json, "keeps");
  json["recompute"] = true;
  run(json, "recomputes");
  EXPECT_EQ(bytes_of("keeps/model.safetensors"), bytes_of("recomputes/model.safetensors"));
}

TEST_F(Arithmetic, RecomputeRefusesDropout) {
  Json json = test::image_recipe();
  json["recompute"] = true;
  try {
    read(json);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("recompute is true, but the model's dropout is 0.1"));
  }
}

TEST_F(Arithmetic, Bfloat16TrainsWhereTheCpuMultipliesItAndElsewhereSaysSo) {
  Json json = test::series_recipe();
  const TrainResult wide = run(json, "fp32");
  json["precision"] = "bf16";
  const TrainResult result = run(json, "bf16");
  if (nn::has_native_bfloat16(at::kCPU)) {
    EXPECT_TRUE(notes_.empty());
    // its rounding takes a run of its own way, to about the same place
    EXPECT_NE(result.loss, wide.loss);
    EXPECT_NEAR(result.loss, wide.loss, 0.1 * wide.loss);
  } else {
    ASSERT_EQ(notes_.size(), 1U);
    EXPECT_THAT(notes_[0], HasSubstr("precision is bf16, which this CPU does not multiply"));
    EXPECT_EQ(bytes_of("fp32/model.safetensors"), bytes_of("bf16/model.safetensors"));
  }
}

TEST_F(Arithmetic, AGpuTrainsAsTheCpuDoes) {
  const Json json = test::series_recipe();
  TrainOptions options;
  options.out = folder_ / "gpu";
  options.device = "cuda";
  if (!at::hasCUDA()) {
    EXPECT_THROW(train(read(json), options), Error);
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  const TrainResult wanted = run(json, "cpu");
  const TrainResult found = train(read(json), options);
  EXPECT_NEAR(found.loss, wanted.loss, 1e-2 * wanted.loss);
}

}  // namespace
}  // namespace perceiver::train
