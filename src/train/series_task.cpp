#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/losses.h"
#include "train/random.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "series_classification";
constexpr int64_t kTestBatch = 64;

// Generated series. Class k has, in channel c, a wave of (2 + k + c mod 3) periods over the series
// with a random phase, strength and drift, under noise. What tells classes apart is the period alone.
class SeriesTask : public Task {
 public:
  SeriesTask(const Recipe& recipe, const ModelSpec& model)
      : recipe_(recipe),
        input_(only_input(model, InputKind::kGrid, kTask)),
        output_(only_output(model, kTask).name),
        classes_(class_count(model, kTask)) {
    if (input_.index_dims.size() != 1) {
      throw Error(ErrorCode::kArgument, cat(kTask, " needs an input with one axis; ",
                                            printable(input_.name), " has ",
                                            input_.index_dims.size()));
    }
  }

  Batch training_batch(int64_t step) override {
    std::vector<uint64_t> examples;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = step * recipe_.batch_size + i;
      examples.push_back(static_cast<uint64_t>(drawn % recipe_.series.train_examples));
    }
    return make_batch(examples);
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch) const override {
    return softmax_cross_entropy(outputs.at(output_), batch.targets, recipe_.label_smoothing);
  }

  int64_t test_examples() const override { return recipe_.series.test_examples; }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    double correct = 0;
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      std::vector<uint64_t> examples;
      for (int64_t i = begin; i < std::min(begin + kTestBatch, count); ++i) {
        examples.push_back(static_cast<uint64_t>(recipe_.series.train_examples + i));
      }
      const Batch batch = make_batch(examples);
      const at::Tensor logits = model.forward(batch.inputs, batch.request).at(output_);
      correct += count_correct(logits, batch.targets);
      if (progress) {
        progress({"evaluate", begin + static_cast<int64_t>(examples.size()), count, ""});
      }
    }
    return {{"accuracy", correct / static_cast<double>(count)}};
  }

 private:
  Batch make_batch(const std::vector<uint64_t>& examples) const {
    const int64_t steps = input_.index_dims[0];
    const auto count = static_cast<int64_t>(examples.size());
    at::Tensor values = at::empty({count, steps, input_.channels}, at::kFloat);
    at::Tensor labels = at::empty({count}, at::kLong);
    float* out = values.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      Random random{recipe_.seed, kSeries, examples[static_cast<size_t>(i)]};
      const int64_t label = random.below(classes_);
      labels.mutable_data_ptr<int64_t>()[i] = label;
      write_series(label, random, out + i * steps * input_.channels);
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(values));
    batch.targets = std::move(labels);
    return batch;
  }

  void write_series(int64_t label, Random& random, float* out) const {
    const int64_t steps = input_.index_dims[0];
    for (int64_t channel = 0; channel < input_.channels; ++channel) {
      const auto periods = static_cast<double>(2 + label + channel % 3);
      const double phase = random.uniform(0, 2 * std::numbers::pi);
      const double strength = random.uniform(0.7, 1.3);
      const double drift = random.uniform(-0.5, 0.5);
      for (int64_t t = 0; t < steps; ++t) {
        const double x = static_cast<double>(t) / static_cast<double>(steps);
        const double noise = random.uniform(-1, 1) * recipe_.series.noise;
        const double wave = strength * std::sin(2 * std::numbers::pi * periods * x + phase);
        out[t * input_.channels + channel] = static_cast<float>(wave + drift * x + noise);
      }
    }
  }

  const Recipe& recipe_;
  InputSpec input_;
  std::string output_;
  int64_t classes_ = 0;
};

}  // namespace

std::unique_ptr<Task> make_series_task(const Recipe& recipe, const ModelSpec& model, TaskData) {
  return std::make_unique<SeriesTask>(recipe, model);
}

}  // namespace perceiver::train
