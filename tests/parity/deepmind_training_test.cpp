#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cross_entropy_loss.h>

#include "perceiver/base/str.h"
#include "perceiver/io/haiku_checkpoint.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"
#include "perceiver/spec/haiku.h"
#include "support/compare.h"
#include "support/deepmind_spec.h"
#include "support/shared.h"

// Training mode and gradients against DeepMind's own code, in float64 (their gradients were rounded
// to float32 when recorded).

namespace perceiver::parity {
namespace {

using nn::to_array;
using nn::to_tensor;

constexpr double kRoundedToFloat = 2e-7;

struct Trainable {
  ModelSpec spec;
  io::HaikuCheckpoint checkpoint;
  ArrayMap recorded;
  std::unique_ptr<nn::Model> model;

  explicit Trainable(const std::filesystem::path& folder)
      : spec(test::deepmind_fixture_spec(folder)),
        checkpoint(io::read_haiku_checkpoint(folder / "params.pickle")),
        recorded(io::read_safetensors(folder / "io.safetensors")) {
    const ArrayMap weights = from_haiku(spec, checkpoint.params, checkpoint.state, "params.pickle");
    model = std::make_unique<nn::Model>(
        spec, weights, nn::ModelOptions{.dtype = at::kDouble, .tables = DType::kF64});
    model->set_training(true);
    model->parameters().requires_grad(true);
  }

  at::Tensor in(const std::string& name) const { return to_tensor(recorded.at("in." + name)); }

  /// `prefix<module>/<param>` arrays of `file`, under our names.
  ArrayMap gradients(const ArrayMap& file, const std::string& prefix) const {
    ArrayMap theirs;
    for (const auto& [name, array] : file) {
      if (name.rfind(prefix, 0) == 0) {
        theirs[name.substr(prefix.size())] = array;
      }
    }
    return from_haiku(spec, theirs, checkpoint.state, "gradients");
  }

  void expect_gradients(const ArrayMap& wanted) const {
    for (const nn::Parameters::Entry& entry : model->parameters().entries()) {
      if (!entry.info.trainable) {
        continue;
      }
      ASSERT_TRUE(entry.tensor.grad().defined()) << entry.info.name;
      const Array& theirs = wanted.at(entry.info.name);
      const test::Difference apart = test::difference(to_array(entry.tensor.grad()), theirs);
      EXPECT_LE(apart.max_abs, kRoundedToFloat * test::max_abs(theirs) + 1e-12)
          << entry.info.name << " " << apart.text;
    }
  }
};

void expect_close(const at::Tensor& ours, const Array& wanted, const char* what,
                  double bar = 1e-10) {
  const test::Difference apart = test::difference(to_array(ours.detach()), wanted);
  EXPECT_LE(apart.max_abs, bar * test::max_abs(wanted)) << what << " " << apart.text;
}

TEST(DeepMindTrainingShared, LanguageLossAndItsGradients) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/deepmind/language");
  const Trainable trainable(folder);
  nn::TensorInputs inputs;
  inputs.arrays["inputs"] = trainable.in("inputs").to(at::kLong);
  inputs.masks["inputs"] = trainable.in("input_mask").to(at::kBool);
  nn::TensorRequest request;
  request.query_masks["logits"] = inputs.masks["inputs"];
  const at::Tensor logits = trainable.model->forward(inputs, request).at("logits");
  const at::Tensor loss = at::cross_entropy_loss(
      logits.flatten(0, 1), trainable.in("labels").to(at::kLong).flatten(), {}, 1, -100);
  expect_close(loss, trainable.recorded.at("f64.loss"), "loss");
  loss.backward();
  const ArrayMap file =
      io::read_safetensors(folder.parent_path() / "language_gradients" / "io.safetensors");
  trainable.expect_gradients(trainable.gradients(file, "f64_as_f32.grad:"));
}

TEST(DeepMindTrainingShared, ConvolutionStemUsesAndUpdatesBatchStatistics) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/deepmind/imagenet_conv");
  const Trainable trainable(folder);
  nn::TensorInputs inputs;
  inputs.arrays["inputs"] = trainable.in("images").to(at::kDouble).requires_grad_(true);
  const at::Tensor logits = trainable.model->forward(inputs).at("logits");
  expect_close(logits, trainable.recorded.at("f64.train_logits"), "logits");

  const std::string state =
      "f64.train_state:image_preprocessor/~/conv2_d_downsample/~/batchnorm/~/";
  const nn::Parameters& parameters = trainable.model->parameters();
  const std::string ours = "inputs.inputs.batch_norm.0.running_";
  // Their accumulator was stored in float32 beside the average it can be worked out from.
  for (const auto& [leaf, average] :
       {std::pair("mean", "mean_ema/average"), std::pair("var", "var_ema/average")}) {
    expect_close(parameters.at(ours + leaf), trainable.recorded.at(state + average).reshape({8}),
                 leaf, kRoundedToFloat);
  }
  EXPECT_EQ(parameters.at("inputs.inputs.batch_norm.0.num_batches_tracked").item<int64_t>(), 8);

  const at::Tensor loss = (logits * trainable.in("cotangent").to(at::kDouble)).sum();
  expect_close(loss, trainable.recorded.at("f64.train_loss"), "loss");
  loss.backward();
  trainable.expect_gradients(trainable.gradients(trainable.recorded, "f64_as_f32.train_grad:"));
  const Array& wanted = trainable.recorded.at("f64_as_f32.train_grad_images");
  const test::Difference apart =
      test::difference(to_array(inputs.arrays.at("inputs").grad()), wanted);
  EXPECT_LE(apart.max_abs, kRoundedToFloat * test::max_abs(wanted)) << apart.text;
}

}  // namespace
}  // namespace perceiver::parity
