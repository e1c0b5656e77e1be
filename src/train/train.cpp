#include "perceiver/train/train.h"

#include <chrono>
#include <cmath>

#include <nlohmann/json.hpp>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/model.h"
#include "perceiver/tasks/bundle.h"
#include "train/checkpoint.h"
#include "train/initial.h"
#include "train/optimiser.h"
#include "train/random.h"
#include "train/schedule.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMeanDecay = 0.98;  // moving average over about 50 steps
constexpr uint64_t kMaxLogBytes = uint64_t{1} << 30;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Json to_json(const StepRecord& record) {
  Json line = {{"step", record.step},
               {"loss", record.loss},
               {"mean_loss", record.mean_loss},
               {"learning_rate", record.learning_rate},
               {"gradient_norm", record.gradient_norm},
               {"examples_per_second", record.examples_per_second},
               {"seconds", record.seconds}};
  for (const auto& [name, value] : record.metrics) {
    line["metrics"][name] = value;
  }
  return line;
}

ArrayMap converted(ArrayMap weights, DType dtype) {
  for (auto& [name, array] : weights) {
    if (array.dtype() != DType::kI64) {  // batch norm counts its batches
      array = array.to(dtype);
    }
  }
  return weights;
}

// One run: what is built once, and the loop over it.
class Run {
 public:
  Run(const Recipe& recipe, const TrainOptions& options)
      : recipe_(recipe),
        options_(options),
        folder_(options.out / "training"),
        task_(make_task(recipe, recipe.model, TaskData::kTrainAndTest)),
        model_(recipe.model, initial_weights(recipe)),
        optimiser_(recipe.optimiser, own_tensors()) {
    state_.recipe = recipe_fingerprint(recipe);
    if (options.resume) {
      state_ = load_checkpoint(checkpoint_path(), state_.recipe, model_.parameters(), optimiser_);
      read_log();
    }
    first_step_ = state_.step;
  }

  TrainResult run() {
    prepare_folder();
    start_ = Clock::now();
    TrainResult result;
    while (state_.step < recipe_.steps && !result.stopped) {
      StepRecord record = step();
      const bool last = state_.step == recipe_.steps;
      if (!last && due(recipe_.evaluate_every)) {
        record.metrics = measure(model_, recipe_.evaluate_limit);
      }
      result.stopped = !last && options_.stop != nullptr && *options_.stop;
      if (due(recipe_.checkpoint_every) || last || result.stopped) {
        keep(record);
        save();
      } else if (!record.metrics.empty() || due(log_every())) {
        keep(record);
      }
      if (options_.on_step) {
        options_.on_step(record);
      }
    }
    if (!result.stopped) {
      result.metrics = finish();
    }
    result.steps = state_.step;
    result.loss = state_.mean_loss;
    result.seconds = seconds_since(start_);
    return result;
  }

 private:
  std::filesystem::path checkpoint_path() const { return folder_ / "checkpoint.safetensors"; }
  int64_t log_every() const { return std::max<int64_t>(1, recipe_.steps / 500); }
  bool due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  // The engine may share memory with the arrays it was made from; training writes into its own.
  nn::Parameters& own_tensors() {
    for (auto& entry : model_.parameters().entries()) {
      entry.tensor = entry.tensor.detach().clone();
    }
    model_.parameters().requires_grad(true);
    return model_.parameters();
  }

  void prepare_folder() {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) {
      throw Error(ErrorCode::kIo, cat(printable(folder_.string()), ": ", error.message()));
    }
    write_json(folder_ / "recipe.json", recipe_.source);
  }

  StepRecord step() {
    const int64_t index = state_.step;
    // Dropout and mask tokens draw from LibTorch's generator: like all else here, by (seed, step).
    Random random{recipe_.seed, kDropout, static_cast<uint64_t>(index)};
    at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
    generator.set_current_seed(random.next() >> 1);
    model_.set_training(true);
    const Batch batch = task_->training_batch(index);
    const at::Tensor loss = task_->loss(model_.forward(batch.inputs, batch.request), batch);
    StepRecord record;
    record.loss = loss.item<double>();
    if (!std::isfinite(record.loss)) {
      refuse(index + 1, "the loss", record.loss);
    }
    loss.backward();
    record.gradient_norm = clip_gradients(model_.parameters(), recipe_.optimiser.clip_norm);
    if (!std::isfinite(record.gradient_norm)) {
      refuse(index + 1, "the norm of the gradients", record.gradient_norm);
    }
    record.learning_rate =
        recipe_.optimiser.learning_rate * schedule_factor(recipe_.schedule, index);
    optimiser_.step(record.learning_rate);
    clear_gradients(model_.parameters());
    state_.mean_loss =
        index == 0 ? record.loss : kMeanDecay * state_.mean_loss + (1 - kMeanDecay) * record.loss;
    ++state_.step;
    record.step = state_.step;
    record.steps = recipe_.steps;
    record.mean_loss = state_.mean_loss;
    record.seconds = seconds_since(start_);
    record.examples_per_second =
        static_cast<double>((state_.step - first_step_) * recipe_.batch_size) /
        std::max(1e-9, record.seconds - evaluation_seconds_);
    return record;
  }

  [[noreturn]] void refuse(int64_t step, const char* what, double value) const {
    std::error_code ignored;
    const bool kept = std::filesystem::exists(checkpoint_path(), ignored);
    throw Error(
        ErrorCode::kArgument,
        cat(printable(recipe_.path.string()), ": ", what, " of step ", step, " is ", value,
            kept ? cat("; the last checkpoint is ", printable(checkpoint_path().string())) : "",
            "; a smaller optimiser.learning_rate or a clip_norm may help"));
  }

  Metrics measure(nn::Model& model, int64_t limit) {
    const Clock::time_point begin = Clock::now();
    model.set_training(false);
    Metrics metrics = task_->evaluate(model, limit, options_.progress);
    evaluation_seconds_ += seconds_since(begin);
    return metrics;
  }

  void keep(const StepRecord& record) { log_ += to_json(record).dump() + "\n"; }

  void save() {
    save_checkpoint(checkpoint_path(), model_.parameters(), optimiser_, state_);
    write_file_atomically(folder_ / "log.jsonl", log_);
  }

  // Lines of steps after the checkpoint belong to work that is about to be done again.
  void read_log() {
    std::error_code ignored;
    const std::filesystem::path path = folder_ / "log.jsonl";
    if (!std::filesystem::exists(path, ignored)) {
      return;
    }
    const std::string text = read_file(path, kMaxLogBytes);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const std::string line = text.substr(at, end - at);
      const Json record = Json::parse(line, nullptr, false);
      if (record.is_object() && record.contains("step") && record["step"].is_number_integer() &&
          record["step"].get<int64_t>() <= state_.step) {
        log_ += line + "\n";
      }
      at = end + 1;
    }
  }

  // Saves the model, and measures what was saved: the stored dtype may round.
  Metrics finish() {
    tasks::Bundle bundle;
    bundle.spec = recipe_.model;
    bundle.weights = converted(model_.parameters().to_arrays(), recipe_.save_dtype);
    bundle.preprocessor = recipe_.preprocessor;
    tasks::save_bundle(bundle, options_.out);
    nn::Model saved(recipe_.model, converted(bundle.weights, DType::kF32));
    StepRecord record;
    record.step = record.steps = state_.step;
    record.loss = record.mean_loss = state_.mean_loss;
    record.metrics = measure(saved, 0);
    record.seconds = seconds_since(start_);
    keep(record);
    write_file_atomically(folder_ / "log.jsonl", log_);
    return record.metrics;
  }

  const Recipe& recipe_;
  const TrainOptions& options_;
  std::filesystem::path folder_;
  std::unique_ptr<Task> task_;
  nn::Model model_;
  Optimiser optimiser_;
  RunState state_;
  std::string log_;
  int64_t first_step_ = 0;
  Clock::time_point start_;
  double evaluation_seconds_ = 0;
};

void set_threads(int count) {
  if (count > 0) {
    at::set_num_threads(count);
  }
}

}  // namespace

TrainResult train(const Recipe& recipe, const TrainOptions& options) {
  if (options.out.empty()) {
    throw Error(ErrorCode::kArgument, "training needs a folder to write to (--out DIR)");
  }
  set_threads(options.num_threads);
  return Run(recipe, options).run();
}

EvalResult evaluate(const Recipe& recipe, const std::filesystem::path& model,
                    const EvalOptions& options) {
  set_threads(options.num_threads);
  const tasks::Bundle bundle = tasks::load_bundle(model);
  const std::unique_ptr<Task> task = make_task(recipe, bundle.spec, TaskData::kTestOnly);
  nn::Model loaded(bundle.spec, bundle.weights);
  EvalResult result;
  const int64_t all = task->test_examples();
  result.examples = options.limit > 0 ? std::min(options.limit, all) : all;
  result.metrics = task->evaluate(loaded, options.limit, options.progress);
  return result;
}

}  // namespace perceiver::train
