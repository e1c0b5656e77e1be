#include "train/tasks/dense_task.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "train/data/bad_samples.h"
#include "train/data/epoch_order.h"
#include "train/data/normalisation.h"
#include "train/fields.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "dense_classification";
constexpr int64_t kTestBatch = 32;
constexpr int64_t kTestPlaces = int64_t{1} << 17;  // of a batch: large grids go in few

// Whether the head needs every row, and makes several places of each.
bool enlarges(const OutputSpec& output) {
  return !output.head_factors.empty();
}

// The grid that the output's rows lie on.
std::vector<int64_t> output_grid(const ModelSpec& model, const OutputSpec& output) {
  std::vector<int64_t> grid = output.index_dims;
  if (output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent) {
    grid = resolve(model).inputs.at(0).index_dims;
  }
  for (size_t i = 0; enlarges(output) && i < grid.size(); ++i) {
    grid[i] *= output.head_factors.at(i);
  }
  return grid;
}

void check_output(const ModelSpec& model, const InputSpec& input, const OutputSpec& output) {
  const std::string name = printable(output.name);
  if (model.decoder.kind != DecoderKind::kCrossAttend || output.single_row ||
      output.flatten_channels || output.query == QueryKind::kCaller ||
      output.query == QueryKind::kCoordinates) {
    throw Error(ErrorCode::kArgument,
                cat(kTask,
                    " needs an output that decodes a row for every place by its own "
                    "queries; output ",
                    name, " does not"));
  }
  const std::vector<int64_t> grid = output_grid(model, output);
  if (grid != input.index_dims) {
    throw Error(ErrorCode::kArgument,
                cat(kTask, ": output ", name, " has the grid ", shape_string(grid), ", the input ",
                    printable(input.name), " has ", shape_string(input.index_dims)));
  }
}

// Rows asked for one by one lie on half-open axes.
void check_points(int64_t points, int64_t places, const OutputSpec& output) {
  const std::string name = printable(output.name);
  if (points > places) {
    throw Error(ErrorCode::kArgument,
                cat("points is ", points, ", output ", name, " has ", places, " places"));
  }
  if (points > 0 && enlarges(output)) {
    throw Error(ErrorCode::kArgument, cat("points is ", points, ", but the head of output ", name,
                                          " needs every row: set points to 0"));
  }
  if (points > 0 && output.query == QueryKind::kFourier &&
      output.whole_grid != AxisGrid::kHalfOpen) {
    throw Error(ErrorCode::kArgument,
                cat("points is ", points, ", but output ", name,
                    " would be tested at other positions than it is trained at: give it "
                    "\"whole_grid\": \"half_open\""));
  }
}

// How often a place of class i was told to be of class j.
class Confusion {
 public:
  explicit Confusion(int64_t classes)
      : classes_(classes), counts_(at::zeros({classes * classes}, at::kLong)) {}

  // [n] each
  void add(const at::Tensor& truth, const at::Tensor& told) {
    counts_ += at::bincount(truth * classes_ + told, {}, classes_ * classes_);
  }

  Metrics metrics() const {
    const at::Tensor table = counts_.view({classes_, classes_}).to(at::kDouble);
    const at::Tensor right = table.diagonal();
    const at::Tensor truth = table.sum(1);
    const at::Tensor either = truth + table.sum(0) - right;
    const at::Tensor occurs = either.gt(0);
    const double total = std::max(1.0, table.sum().item<double>());
    const double classes = std::max(1.0, occurs.sum().item<double>());
    return {{"accuracy", right.sum().item<double>() / total},
            {"mean_iou", (right / either.clamp_min(1)).sum().item<double>() / classes},
            {"majority_accuracy", truth.max().item<double>() / total}};
  }

 private:
  int64_t classes_;
  at::Tensor counts_;
};

class DenseTask : public Task {
 public:
  DenseTask(const Recipe& recipe, const DenseRecipe& own, const ModelSpec& model, TaskData data)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kGrid, kTask)),
        output_(only_output(model, kTask).name),
        grid_({input_.index_dims, input_.channels, output_width(model, only_output(model, kTask))}),
        bad_(recipe.skip_bad),
        bad_tests_(recipe.skip_bad) {
    check_output(model, input_, model.outputs[0]);
    check_points(own.points, grid_.places(), model.outputs[0]);
    if (own.data.has_pictures()) {
      normalisation_ = read_normalisation(recipe, input_.channels);
    }
    test_ = open_dense(own.data, DataPart::kTest, grid_, recipe.seed);
    if (data == TaskData::kTrainAndTest) {
      train_ = open_dense(own.data, DataPart::kTrain, grid_, recipe.seed);
      if (own.data.format == DenseFormat::kFolder) {
        order_.emplace(recipe.seed, train_->count());
      }
    }
  }

  Batch training_batch(int64_t index) override {
    const int64_t first = index * recipe_.batch_size;
    Batch batch = read_batch(recipe_.batch_size, [&](int64_t i, float* values, int64_t* labels) {
      const int64_t drawn = first + i;
      const int64_t chosen = order_ ? order_->at(drawn) : drawn % train_->count();
      bad_.read(chosen, train_->count(), [&](int64_t at) {
        train_->read(at, drawn, values, labels);
        return at;
      });
    });
    if (own_.points > 0) {
      keep_points(index, batch);
    }
    if (batch.targets.at(output_).lt(0).any().item<bool>()) {
      batch.mask = batch.targets.at(output_).ge(0);
    }
    return batch;
  }

  Counts counts(const Batch& batch) const override {
    return {batch.mask.defined() ? batch.mask.sum().item<double>()
                                 : static_cast<double>(batch.targets.at(output_).numel())};
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    const at::Tensor& labels = batch.targets.at(output_);
    const at::Tensor logits = rows(outputs);
    const at::Tensor mean = batch.mask.defined()
                                ? masked_cross_entropy(logits, labels, batch.mask)
                                : softmax_cross_entropy(logits.flatten(0, 1), labels.flatten());
    return mean.mul(shares.at(0));
  }

  int64_t skipped() const override { return bad_.skipped() + bad_tests_.skipped(); }
  int64_t test_examples() const override { return test_->count(); }

  // Beside the accuracy stands that of always telling the commonest class.
  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_->count()) : test_->count();
    const int64_t at_once = std::clamp<int64_t>(kTestPlaces / grid_.places(), 1, kTestBatch);
    Confusion confusion(grid_.classes);
    double loss_sum = 0;
    double counted = 0;
    for (int64_t begin = 0; begin < count; begin += at_once) {
      const int64_t size = std::min(at_once, count - begin);
      const Batch batch = test_batch(begin, size);
      const at::Tensor& labels = batch.targets.at(output_);
      const at::Tensor mask = labels.ge(0);
      const at::Tensor truth = masked_rows(labels, mask);
      const at::Tensor logits = masked_rows(rows(model.forward(batch.inputs, batch.request)), mask);
      if (truth.numel() > 0) {
        confusion.add(truth, logits.argmax(-1));
        loss_sum += softmax_cross_entropy(logits, truth).item<double>() *
                    static_cast<double>(truth.numel());
        counted += static_cast<double>(truth.numel());
      }
      if (progress) {
        progress({"evaluate", begin + size, count, ""});
      }
    }
    Metrics metrics = confusion.metrics();
    metrics.emplace_back("loss", loss_sum / std::max(1.0, counted));
    return metrics;
  }

 private:
  // [B, places, classes], with or without the grid's axes.
  at::Tensor rows(const nn::TensorMap& outputs) const {
    const at::Tensor& output = outputs.at(output_);
    return output.reshape({output.size(0), -1, grid_.classes});
  }

  template <typename Read>
  Batch read_batch(int64_t count, const Read& read) const {
    std::vector<int64_t> shape{count};
    shape.insert(shape.end(), grid_.extents.begin(), grid_.extents.end());
    shape.push_back(grid_.channels);
    at::Tensor values = at::empty(shape, at::kFloat);
    at::Tensor labels = at::empty({count, grid_.places()}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      float* to = values.mutable_data_ptr<float>() + i * grid_.values();
      read(i, to, labels.mutable_data_ptr<int64_t>() + i * grid_.places());
      if (normalisation_) {
        normalisation_->apply(to, grid_.values());
      }
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(values));
    batch.targets.emplace(output_, std::move(labels));
    return batch;
  }

  Batch test_batch(int64_t begin, int64_t count) const {
    return read_batch(count, [&](int64_t i, float* values, int64_t* labels) {
      bad_tests_.read(begin + i, test_->count(), [&](int64_t at) {
        test_->read(at, -1, values, labels);
        return at;
      });
    });
  }

  void keep_points(int64_t index, Batch& batch) const {
    Random random{recipe_.seed, kPoints, static_cast<uint64_t>(index)};
    std::vector<int64_t> points = random_order(grid_.places(), random);
    points.resize(static_cast<size_t>(own_.points));
    std::sort(points.begin(), points.end());
    at::Tensor& labels = batch.targets.at(output_);
    labels = at::index_select(labels, 1, at::tensor(points, at::kLong));
    batch.request.points.emplace(output_, std::move(points));
  }

  const Recipe& recipe_;
  const DenseRecipe& own_;
  InputSpec input_;
  std::string output_;
  DenseGrid grid_;
  std::optional<Normalisation> normalisation_;
  std::unique_ptr<DenseExamples> test_, train_;
  std::optional<EpochOrder> order_;  // generated examples need none
  mutable BadSamples bad_, bad_tests_;
};

}  // namespace

std::unique_ptr<Task> DenseRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                        TaskData part) const {
  return std::make_unique<DenseTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_dense_recipe(Fields& fields,
                                                    const std::filesystem::path& folder) {
  auto recipe = std::make_shared<DenseRecipe>();
  recipe->data = read_dense_data(fields.object("data"), folder);
  recipe->points = fields.integer("points", 0, 0, int64_t{1} << 40);
  return recipe;
}

}  // namespace perceiver::train
