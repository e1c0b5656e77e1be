#include "train/tasks/series_task.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/ops/empty.h>
#include <ATen/ops/mse_loss.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "series";
constexpr int64_t kTestBatch = 64;

// Generated series. Class k has, in channel c, a wave of (2 + k + c mod 3) periods over the input's
// length, with random phase, strength and drift, under noise. What tells classes apart is the
// period alone; what comes next follows from all of them.
class SeriesTask : public Task {
 public:
  SeriesTask(const Recipe& recipe, const SeriesRecipe& own, const ModelSpec& model)
      : recipe_(recipe), own_(own), input_(only_input(model, InputKind::kGrid, kTask)) {
    if (input_.index_dims.size() != 1) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, " needs an input with one axis; ", printable(input_.name), " has ",
                      input_.index_dims.size()));
    }
    for (const OutputSpec& output : model.outputs) {
      take_output(model, output);
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<uint64_t> examples;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = index * recipe_.batch_size + i;
      examples.push_back(static_cast<uint64_t>(drawn % own_.data.train_examples));
    }
    return make_batch(examples);
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    at::Tensor sum;
    if (!state_.empty()) {
      sum =
          softmax_cross_entropy(outputs.at(state_), batch.targets.at(state_), own_.label_smoothing);
    }
    if (!forecast_.empty()) {
      const at::Tensor error = at::mse_loss(outputs.at(forecast_), batch.targets.at(forecast_));
      sum = sum.defined() ? sum.add(error) : error;
    }
    return sum.mul(shares.at(0));
  }

  int64_t test_examples() const override { return own_.data.test_examples; }

  // Beside the forecast's error stands that of repeating the last value seen.
  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    double correct = 0;
    double squares = 0;
    double naive_squares = 0;
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      std::vector<uint64_t> examples;
      for (int64_t i = begin; i < std::min(begin + kTestBatch, count); ++i) {
        examples.push_back(static_cast<uint64_t>(own_.data.train_examples + i));
      }
      const auto size = static_cast<double>(examples.size());
      const Batch batch = make_batch(examples);
      const nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
      if (!state_.empty()) {
        correct += count_correct(outputs.at(state_), batch.targets.at(state_));
      }
      if (!forecast_.empty()) {
        const at::Tensor& wanted = batch.targets.at(forecast_);
        const at::Tensor last = batch.inputs.arrays.at(input_.name).slice(1, -1).expand_as(wanted);
        squares += at::mse_loss(outputs.at(forecast_), wanted).item<double>() * size;
        naive_squares += at::mse_loss(last, wanted).item<double>() * size;
      }
      if (progress) {
        progress({"evaluate", begin + static_cast<int64_t>(examples.size()), count, ""});
      }
    }
    const auto n = static_cast<double>(count);
    Metrics metrics;
    if (!state_.empty()) {
      metrics.emplace_back("accuracy", correct / n);
    }
    if (!forecast_.empty()) {
      metrics.emplace_back("forecast_rmse", std::sqrt(squares / n));
      metrics.emplace_back("last_value_rmse", std::sqrt(naive_squares / n));
    }
    return metrics;
  }

 private:
  void take_output(const ModelSpec& model, const OutputSpec& output) {
    const int64_t width = output_width(model, output);
    if (output.single_row && state_.empty()) {
      state_ = output.name;
      classes_ = width;
    } else if (output.index_dims.size() == 1 && width == input_.channels && forecast_.empty()) {
      forecast_ = output.name;
      horizon_ = output.index_dims[0];
    } else {
      throw Error(ErrorCode::kArgument, cat(kTask, ": output ", printable(output.name),
                                            " is neither one row of classes nor "
                                            "a series of the input's ",
                                            input_.channels, " channels (it has ", width, ")"));
    }
  }

  Batch make_batch(const std::vector<uint64_t>& examples) const {
    const int64_t steps = input_.index_dims[0];
    const auto count = static_cast<int64_t>(examples.size());
    at::Tensor values = at::empty({count, steps + horizon_, input_.channels}, at::kFloat);
    at::Tensor labels = at::empty({count}, at::kLong);
    float* out = values.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      Random random{recipe_.seed, kSeries, examples[static_cast<size_t>(i)]};
      const int64_t label = random.below(classes_);
      labels.mutable_data_ptr<int64_t>()[i] = label;
      write_series(label, random, out + i * (steps + horizon_) * input_.channels);
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, values.slice(1, 0, steps).contiguous());
    if (!state_.empty()) {
      batch.targets.emplace(state_, std::move(labels));
    }
    if (!forecast_.empty()) {
      batch.targets.emplace(forecast_, values.slice(1, steps).contiguous());
    }
    return batch;
  }

  void write_series(int64_t label, Random& random, float* out) const {
    const int64_t steps = input_.index_dims[0];
    for (int64_t channel = 0; channel < input_.channels; ++channel) {
      const auto periods = static_cast<double>(2 + label + channel % 3);
      const double phase = random.uniform(0, 2 * std::numbers::pi);
      const double strength = random.uniform(0.7, 1.3);
      const double drift = random.uniform(-0.5, 0.5);
      for (int64_t t = 0; t < steps + horizon_; ++t) {
        const double x = static_cast<double>(t) / static_cast<double>(steps);
        const double noise = random.uniform(-1, 1) * own_.data.noise;
        const double wave = strength * std::sin(2 * std::numbers::pi * periods * x + phase);
        out[t * input_.channels + channel] = static_cast<float>(wave + drift * x + noise);
      }
    }
  }

  const Recipe& recipe_;
  const SeriesRecipe& own_;
  InputSpec input_;
  std::string state_, forecast_;  // output names; empty = the model has none
  int64_t classes_ = 1;
  int64_t horizon_ = 0;
};

SeriesDataSpec read_series(Fields fields) {
  SeriesDataSpec series;
  series.train_examples = fields.integer("train_examples", series.train_examples, 1, 1 << 24);
  series.test_examples = fields.integer("test_examples", series.test_examples, 1, 1 << 24);
  series.noise = fields.number("noise", series.noise, 0, 1e3);
  fields.finish();
  return series;
}

}  // namespace

std::unique_ptr<Task> SeriesRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                         TaskData /*part*/) const {
  return std::make_unique<SeriesTask>(recipe, *this, model);
}

std::shared_ptr<const TaskRecipe> read_series_recipe(Fields& fields,
                                                     const std::filesystem::path& /*folder*/) {
  auto recipe = std::make_shared<SeriesRecipe>();
  recipe->data = read_series(fields.object("data"));
  recipe->label_smoothing = fields.number("label_smoothing", 0, 0, 1);
  return recipe;
}

}  // namespace perceiver::train
