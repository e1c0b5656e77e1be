#include "train/tasks/tensor_task.h"

#include <algorithm>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/tensor.h"
#include "train/data/epoch_order.h"
#include "train/random.h"
#include "train/tasks/tensor_losses.h"
#include "train/tasks/tensor_shapes.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "tensors";
constexpr int64_t kScanRows = 1024;

using Rows = std::vector<int64_t>;

at::Tensor floats(const Array& array, const Rows& chosen) {
  return nn::to_tensor(gather_rows(array, chosen, DType::kF32));
}

at::Tensor flags(const Array& array, const Rows& chosen) {
  return nn::to_tensor(gather_rows(array, chosen, DType::kBool));
}

/// The arrays of one part of the data, checked against the model.
class TensorPart {
 public:
  TensorPart(TensorFiles files, const TensorDataSpec& data, const ModelSpec& model,
             const std::string& recipe)
      : files_(std::move(files)), data_(data), model_(model), recipe_(recipe) {
    const ModelShape shape = resolve(model);
    for (const TensorInput& input : data.inputs) {
      const Array& array = take("inputs", input.input, input.array);
      check_input_array(model.input(input.input), array, files_.named(input.array));
      if (!input.mask.empty()) {
        const int64_t tokens = mask_tokens(shape, model.input(input.input), array);
        check_mask(input.mask, take("inputs", input.input, input.mask), {tokens}, input.input);
      }
    }
    for (const TensorOutput& output : data.outputs) {
      check_output(output, shape);
    }
  }

  int64_t count() const { return count_; }

  Batch batch(const Rows& chosen) const {
    Batch batch;
    for (const TensorInput& input : data_.inputs) {
      const Array& array = array_of(input.array);
      at::Tensor values;
      if (model_.input(input.input).kind == InputKind::kText) {
        values = nn::to_tensor(gather_rows(array, chosen, DType::kI64));
      } else {
        values = floats(array, chosen).sub(input.mean).div(input.deviation);
      }
      batch.inputs.arrays.emplace(input.input, std::move(values));
      if (!input.mask.empty()) {
        batch.inputs.masks.emplace(input.input, flags(array_of(input.mask), chosen));
      }
    }
    for (const TensorOutput& output : data_.outputs) {
      batch.request.only.push_back(output.output);
      if (!output.queries.empty()) {
        batch.request.queries.emplace(output.output, floats(array_of(output.queries), chosen));
      }
      const Target wanted = target(output, chosen);
      batch.targets.emplace(output.output, wanted.values);
      batch.targets.emplace(mask_key(output.output), wanted.counts);
    }
    return batch;
  }

  /// What the output should say of these examples.
  Target target(const TensorOutput& output, const Rows& chosen) const {
    Target wanted;
    const bool classes = output.loss == TensorLoss::kCrossEntropy;
    wanted.values = nn::to_tensor(
        gather_rows(array_of(output.array), chosen, classes ? DType::kI64 : DType::kF32));
    at::Tensor counts = at::ones_like(wanted.values, at::kBool);
    if (!output.mask.empty()) {
      at::Tensor mask = flags(array_of(output.mask), chosen);
      while (mask.dim() < counts.dim()) {
        mask = mask.unsqueeze(-1);
      }
      counts = mask.expand_as(counts).contiguous();
      wanted.values = wanted.values.masked_fill(counts.logical_not(), 0);
    }
    wanted.counts = counts;
    return wanted;
  }

  std::string named(const TensorOutput& output) const { return files_.named(output.array); }

 private:
  const Array& array_of(const std::string& name) const { return files_.at(name, kTask); }

  // An array the recipe names, with as many examples as the others.
  const Array& take(const char* part, const std::string& name, const std::string& array) {
    const Array& taken = files_.at(array, cat(recipe_, ": data.", part, ".", printable(name, 40)));
    if (first_.empty()) {
      first_ = array;
      count_ = taken.size(0);
    }
    if (taken.size(0) != count_) {
      throw Error(ErrorCode::kShape, cat(files_.named(array), " holds ", taken.size(0),
                                         " examples, ", files_.named(first_), " ", count_));
    }
    return taken;
  }

  void check_mask(const std::string& name, const Array& mask, const std::vector<int64_t>& wanted,
                  const std::string& of) const {
    const std::vector<int64_t> given(mask.shape().begin() + 1, mask.shape().end());
    if (given.size() > wanted.size() || !std::equal(given.begin(), given.end(), wanted.begin())) {
      throw Error(
          ErrorCode::kShape,
          cat(files_.named(name), " is ", examples_shape(given), "; a mask of ", printable(of, 40),
              " is ", examples_shape(wanted), wanted.size() > 1 ? " or its leading axes" : ""));
    }
  }

  void check_output(const TensorOutput& output, const ModelShape& shape) {
    const OutputSpec& spec = model_.output(output.output);
    const Array& target = take("outputs", output.output, output.array);
    const bool asks = spec.query == QueryKind::kCaller || spec.query == QueryKind::kCoordinates;
    if (asks == output.queries.empty()) {
      throw Error(ErrorCode::kArgument,
                  cat(recipe_, ": data.outputs.", printable(output.output, 40), ".queries is ",
                      asks ? "missing: this output is asked by the caller"
                           : "given, but this output has queries of its own"));
    }
    const Array queries = asks ? take("outputs", output.output, output.queries) : Array();
    if (asks && queries.dim() != 3) {
      throw Error(ErrorCode::kShape,
                  cat(files_.named(output.queries), " is ", shape_string(queries.shape()),
                      ", queries are [n, rows, channels]"));
    }
    const auto wanted = example_shape(model_, shape, spec, fed_by(spec.of_input), queries);
    const std::vector<int64_t> given(target.shape().begin() + 1, target.shape().end());
    if (wanted && given != target_shape(output.loss, *wanted)) {
      throw Error(ErrorCode::kShape,
                  cat(files_.named(output.array), " is ", examples_shape(given), "; output ",
                      printable(output.output), " is ", examples_shape(*wanted), " and its target ",
                      examples_shape(target_shape(output.loss, *wanted))));
    }
    if (!output.mask.empty()) {
      check_mask(output.mask, take("outputs", output.output, output.mask), given, output.output);
    }
    check_values(output, wanted ? wanted->back() : 0);
  }

  Array fed_by(const std::string& input) const {
    for (const TensorInput& known : data_.inputs) {
      if (known.input == input) {
        return array_of(known.array);
      }
    }
    return {};
  }

  // Classes and yes-no answers are looked through once, so that a wrong one stops no run halfway.
  void check_values(const TensorOutput& output, int64_t classes) const {
    if (output.loss != TensorLoss::kCrossEntropy && output.loss != TensorLoss::kBinary) {
      return;
    }
    const bool binary = output.loss == TensorLoss::kBinary;
    for (int64_t begin = 0; begin < count_; begin += kScanRows) {
      Rows rows;
      for (int64_t i = begin; i < std::min(begin + kScanRows, count_); ++i) {
        rows.push_back(i);
      }
      const at::Tensor values = target(output, rows).values;
      if (values.numel() == 0) {
        continue;
      }
      const auto least = values.min().item<double>();
      const auto most = values.max().item<double>();
      const double limit = binary ? 1 : static_cast<double>(classes) - 1;
      if (!(least >= 0) || (!(most <= limit) && (binary || classes > 0))) {
        throw Error(ErrorCode::kArgument,
                    cat(files_.named(output.array), " holds ", least < 0 ? least : most,
                        "; output ", printable(output.output), " tells ",
                        binary ? "answers between 0 and 1" : cat("classes 0 to ", classes - 1)));
      }
    }
  }

  TensorFiles files_;
  const TensorDataSpec& data_;
  const ModelSpec& model_;
  std::string recipe_;
  std::string first_;  // an array whose number of examples the others must have
  int64_t count_ = 0;
};

class TensorTask : public Task {
 public:
  TensorTask(const Recipe& recipe, const TensorRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe), data_(own.data), model_(model) {
    check_names();
    const std::string where = printable(recipe.path.string());
    const bool split = data_.test.empty();
    if (split || part == TaskData::kTrainAndTest) {
      train_.emplace(TensorFiles(data_.train), data_, model_, where);
    }
    if (!split) {
      test_.emplace(TensorFiles(data_.test), data_, model_, where);
    }
    divide(split);
    if (test_rows_.empty() || (part == TaskData::kTrainAndTest && train_rows_.empty())) {
      throw Error(ErrorCode::kArgument,
                  cat(where, ": the data leave ", train_rows_.size(), " examples to train on and ",
                      test_rows_.size(), " to measure on"));
    }
    if (part == TaskData::kTrainAndTest) {
      order_.emplace(recipe.seed, static_cast<int64_t>(train_rows_.size()));
    }
  }

  Batch training_batch(int64_t index) override {
    Rows chosen;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = order_->at(index * recipe_.batch_size + i);
      chosen.push_back(train_rows_[static_cast<size_t>(drawn)]);
    }
    return train_->batch(chosen);
  }

  // One mean per output, over the values that count.
  Counts counts(const Batch& batch) const override {
    Counts counts;
    for (const TensorOutput& output : data_.outputs) {
      counts.push_back(batch.targets.at(mask_key(output.output)).sum().item<double>());
    }
    return counts;
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    at::Tensor sum;
    for (size_t i = 0; i < data_.outputs.size(); ++i) {
      const TensorOutput& output = data_.outputs[i];
      const Target wanted = target_of(batch, output);
      const at::Tensor mean = mean_loss(output, checked(outputs, output, wanted), wanted);
      const at::Tensor part = mean.mul(output.weight * shares.at(i));
      sum = sum.defined() ? sum.add(part) : part;
    }
    return sum;
  }

  int64_t test_examples() const override { return static_cast<int64_t>(test_rows_.size()); }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    const TensorPart& part = test_ ? *test_ : *train_;
    std::vector<OutputTally> tallies;
    for (const TensorOutput& output : data_.outputs) {
      tallies.emplace_back(output);
    }
    each_batch(count, [&](const Rows& rows, int64_t) {
      for (size_t i = 0; i < tallies.size(); ++i) {
        tallies[i].learn(part.target(data_.outputs[i], rows));
      }
    });
    each_batch(count, [&](const Rows& rows, int64_t done) {
      const Batch batch = part.batch(rows);
      const nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
      for (size_t i = 0; i < tallies.size(); ++i) {
        const Target wanted = target_of(batch, data_.outputs[i]);
        tallies[i].add(checked(outputs, data_.outputs[i], wanted), wanted);
      }
      if (progress) {
        progress({"evaluate", done, count, ""});
      }
    });
    Metrics metrics;
    for (const OutputTally& tally : tallies) {
      const Metrics more = tally.metrics();
      metrics.insert(metrics.end(), more.begin(), more.end());
    }
    return metrics;
  }

 private:
  void check_names() const {
    for (const InputSpec& input : model_.inputs) {
      if (std::none_of(data_.inputs.begin(), data_.inputs.end(),
                       [&](const TensorInput& given) { return given.input == input.name; })) {
        throw Error(ErrorCode::kArgument, cat(printable(recipe_.path.string()),
                                              ": data.inputs has no array for the model's input ",
                                              printable(input.name)));
      }
    }
    for (const TensorInput& given : data_.inputs) {
      model_.input(given.input);  // throws on a name the model does not read
    }
    for (const TensorOutput& given : data_.outputs) {
      model_.output(given.output);
    }
  }

  // Which example is held out is a fixed draw of its number, whatever the seed: runs compare.
  void divide(bool split) {
    for (int64_t i = 0; train_ && i < train_->count(); ++i) {
      Random random{kTensorHeldOut, static_cast<uint64_t>(i)};
      const bool held_out = split && random.uniform() < data_.held_out;
      (held_out ? test_rows_ : train_rows_).push_back(i);
    }
    for (int64_t i = 0; test_ && i < test_->count(); ++i) {
      test_rows_.push_back(i);
    }
  }

  template <typename Do>
  void each_batch(int64_t count, const Do& act) const {
    for (int64_t begin = 0; begin < count; begin += recipe_.batch_size) {
      const int64_t end = std::min(begin + recipe_.batch_size, count);
      act(Rows(test_rows_.begin() + begin, test_rows_.begin() + end), end);
    }
  }

  static Target target_of(const Batch& batch, const TensorOutput& output) {
    return {batch.targets.at(output.output), batch.targets.at(mask_key(output.output))};
  }

  // Upsampling heads show their shape only now.
  const at::Tensor& checked(const nn::TensorMap& outputs, const TensorOutput& output,
                            const Target& wanted) const {
    const at::Tensor& given = outputs.at(output.output);
    const std::vector<int64_t> fit = target_shape(output.loss, given.sizes().vec());
    if (wanted.values.sizes() != at::IntArrayRef(fit)) {
      const TensorPart& part = train_ ? *train_ : *test_;
      throw Error(
          ErrorCode::kShape,
          cat(part.named(output), ": a batch of targets is ",
              shape_string(wanted.values.sizes().vec()), ", output ", printable(output.output),
              " is ", shape_string(given.sizes().vec()), " and needs ", shape_string(fit)));
    }
    return given;
  }

  const Recipe& recipe_;
  const TensorDataSpec& data_;
  ModelSpec model_;
  std::optional<TensorPart> train_, test_;
  Rows train_rows_, test_rows_;
  std::optional<EpochOrder> order_;
};

}  // namespace

std::unique_ptr<Task> TensorRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                         TaskData part) const {
  return std::make_unique<TensorTask>(recipe, *this, model, part);
}

}  // namespace perceiver::train
