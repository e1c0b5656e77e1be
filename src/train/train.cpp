#include "perceiver/train/train.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ATen/Parallel.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/distributed/group.h"
#include "perceiver/nn/device.h"
#include "perceiver/nn/merger.h"
#include "perceiver/nn/model.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/stats.h"
#include "train/average.h"
#include "train/checkpoint.h"
#include "train/compute_model.h"
#include "train/group_merger.h"
#include "train/initial.h"
#include "train/loader.h"
#include "train/optimiser.h"
#include "train/run_log.h"
#include "train/share_start.h"
#include "train/start_from.h"
#include "train/step.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMeanDecay = 0.98;  // moving average over about 50 steps

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ArrayMap converted(ArrayMap weights, DType dtype) {
  for (auto& [name, array] : weights) {
    if (array.dtype() != DType::kI64) {  // batch norm counts its batches
      array = array.to(dtype);
    }
  }
  return weights;
}

// Thrown out of an evaluation that a signal cuts short.
struct Interrupted {};

at::ScalarType arithmetic(const Recipe& recipe, const TrainOptions& options,
                          const at::Device& device) {
  if (recipe.precision == Precision::kF32) {
    return at::kFloat;
  }
  if (nn::has_native_bfloat16(device)) {
    return at::kBFloat16;
  }
  if (options.on_note) {
    options.on_note(
        cat(printable(recipe.path.string()),
            ": precision is bf16, which this CPU does not multiply; computing in fp32"));
  }
  return at::kFloat;
}

// One run: what is built once, and the loop over it.
class Run {
 public:
  Run(const Recipe& recipe, const TrainOptions& options, distributed::Group& group)
      : recipe_(recipe),
        options_(options),
        group_(group),
        merger_(group),
        folder_(options.out / "training"),
        task_(recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest)),
        model_(recipe.model, initial_weights(recipe, &start_from_),
               {.device = nn::parse_device(options.device, group.local_rank()),
                .recompute_layers = recipe.recompute}),
        optimiser_(recipe.optimiser, trained_tensors()),
        average_(recipe.average_decay, model_.parameters()),
        compute_(model_, arithmetic(recipe, options, model_.options().device)),
        step_({recipe_, *task_, model_, compute_, optimiser_, average_, group_}),
        log_(folder_) {
    state_.recipe = recipe_fingerprint(recipe);
    if (recipe.input_parallel) {
      nn::check_input_parallel(recipe.model, group.size());
      read_together(model_);
    }
    if (leads()) {
      find_start();
    }
    group_.barrier("reading the data");
    share_start(group_, recipe_, trained(), state_);
    compute_.refresh();
    if (group_.size() > 1) {
      state_.unmeasured.reset();  // one process alone knows of it
    }
    first_step_ = state_.step;
    loader_.emplace(*task_, state_.batches + step_.offset(), step_.stride(), options.num_loaders,
                    [this](Batch& batch) { keep_part(batch); });
  }

  TrainResult run() {
    start_files();
    report_start();
    start_ = Clock::now();
    TrainResult result;
    result.stopped = state_.unmeasured && !measure_late();
    while (state_.step < recipe_.steps && !result.stopped) {
      StepRecord record = step(result.stopped);
      const bool last = state_.step == recipe_.steps;
      if (!last && due(recipe_.evaluate_every)) {
        measure_step(record);
        group_.barrier("measuring");
      }
      // measuring may have been interrupted after the step had asked
      result.stopped = !last && (result.stopped || (group_.size() == 1 && signalled()));
      if (due(recipe_.checkpoint_every) || last || result.stopped) {
        log(record);
        save();
      } else if (!record.metrics.empty() || due(log_every())) {
        log(record);
      }
      if (options_.on_step) {
        options_.on_step(record);
      }
    }
    if (!result.stopped) {
      const auto metrics = finish();
      result.stopped = !metrics;
      result.metrics = metrics.value_or(Metrics{});
    }
    describe(result);
    return result;
  }

 private:
  bool leads() const { return group_.rank() == 0; }
  Trained trained() { return {model_.parameters(), optimiser_, average_}; }
  int64_t log_every() const { return std::max<int64_t>(1, recipe_.steps / 500); }
  bool due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  void read_together(nn::Model& model) {
    if (recipe_.input_parallel && group_.size() > 1) {
      model.read_together(&merger_);
    }
  }

  // Batches that wait hold this process's part of the input alone.
  void keep_part(Batch& batch) const {
    if (!recipe_.input_parallel || group_.size() == 1) {
      return;
    }
    const InputSpec& input = recipe_.model.inputs[0];
    const nn::InputPart part = nn::input_part(input, group_.rank(), group_.size());
    at::Tensor& whole = batch.inputs.arrays.at(input.name);
    if (whole.size(1) != part.length) {
      whole = whole.narrow(1, part.begin, part.length).clone();
    }
  }

  // Fresh weights or a checkpoint. Only rank 0 looks: the others need not see its files.
  void find_start() {
    const std::filesystem::path newest = newest_checkpoint(folder_);
    if (options_.resume && newest.empty()) {
      throw Error(ErrorCode::kIo, cat(printable(folder_.string()), ": no checkpoint to resume"));
    }
    prepare_folder();
    if (options_.resume) {
      resume();
    } else if (!options_.restart && !newest.empty()) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(options_.out.string()), " holds a run already (",
                      printable(newest.filename().string()),
                      "): resume it, restart it, or write elsewhere"));
    }
  }

  void note(const std::string& line) const {
    if (options_.on_note && leads()) {
      options_.on_note(line);
    }
  }

  bool signalled() const { return options_.stop != nullptr && *options_.stop; }

  // The newest checkpoint that loads. Those that do not are renamed: keep_checkpoints would count
  // them.
  void resume() {
    const std::vector<std::filesystem::path> found = checkpoints(folder_);
    std::string problem;
    for (const std::filesystem::path& path : found) {
      try {
        state_ = load_checkpoint(path, state_.recipe, trained());
      } catch (const Error& error) {
        if (error.code() == ErrorCode::kArgument) {
          throw;  // of another recipe: so are the others
        }
        problem = problem.empty() ? error.what() : problem;
        note(cat(error.what(), "; kept as ", printable(set_aside(path).filename().string()),
                 ", trying the one before"));
        continue;
      }
      log_.read(state_.step);
      return;
    }
    throw Error(ErrorCode::kFormat, cat(problem, "; no checkpoint here loads"));
  }

  nn::Parameters& trained_tensors() {
    model_.parameters().requires_grad(true);
    return model_.parameters();
  }

  void prepare_folder() {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) {
      throw Error(ErrorCode::kIo, cat(printable(folder_.string()), ": ", error.message()));
    }
    lock_.emplace(folder_ / ".lock");
    for (const auto& folder : {folder_, options_.out, options_.out / "best"}) {
      remove_unfinished_files(folder);
    }
  }

  void start_files() {
    if (!leads()) {
      return;
    }
    write_json(folder_ / "recipe.json", recipe_.source);
    // A new run's: all, for a later resume would take them for its own. A resumed one may have been
    // killed before it removed them.
    remove_old_checkpoints(folder_, options_.resume ? recipe_.keep_checkpoints : 0);
    log_.open();
  }

  void report_start() {
    if (options_.resume) {  // the checkpoint's weights took the place of what was taken
      start_from_ = {};
    } else if (!start_from_.model.empty() && options_.on_start) {
      options_.on_start(start_from_);
    }
    if (!start_from_.model.empty() && leads()) {
      write_json(folder_ / "start.json", to_json(start_from_));
    }
  }

  // All members leave at the same step, whichever of them was told to.
  StepRecord step(bool& stop) {
    const Clock::time_point begin = Clock::now();
    Step::Result done;
    try {
      done = step_.run(state_.step, state_.batches, *loader_, options_.stop);
    } catch (const Error& error) {
      const std::filesystem::path kept = newest_checkpoint(folder_);
      throw Error(error.code(), cat(error.what(), kept.empty() ? "" : "; the last checkpoint is ",
                                    kept.empty() ? "" : printable(kept.string())));
    }
    state_.mean_loss =
        state_.step == 0 ? done.loss : kMeanDecay * state_.mean_loss + (1 - kMeanDecay) * done.loss;
    ++state_.step;
    state_.batches += step_.batches();
    stop = done.stop;
    StepRecord record = record_of(done.loss);
    record.gradient_norm = done.gradient_norm;
    record.learning_rate = done.learning_rate;
    record.step_seconds = seconds_since(begin);
    step_seconds_.push_back(record.step_seconds);
    return record;
  }

  StepRecord record_of(double loss) const {
    StepRecord record;
    record.step = state_.step;
    record.steps = recipe_.steps;
    record.loss = loss;
    record.mean_loss = state_.mean_loss;
    record.seconds = seconds_since(start_);
    const double training = std::max(1e-9, record.seconds - evaluation_seconds_);
    const int64_t examples = (state_.step - first_step_) * recipe_.batch_size * step_.batches();
    record.examples_per_second = static_cast<double>(examples) / training;
    record.waiting_share = loader_->waited_seconds() / training;
    record.skipped = task_->skipped();
    return record;
  }

  // A step that waits for its measurement is logged with it.
  void log(const StepRecord& record) {
    if (leads() && !state_.unmeasured) {
      log_.add(record);
    }
  }

  // Evaluation may take longer than a scheduler waits between SIGTERM and SIGKILL. Several members
  // stay together: none leaves before the end.
  ProgressFn interruptible() const {
    return [this](const Progress& progress) {
      if (options_.progress) {
        options_.progress(progress);
      }
      if (group_.size() == 1 && signalled()) {
        throw Interrupted();
      }
    };
  }

  // nothing if it was interrupted
  std::optional<Metrics> measure(nn::Model& model, int64_t limit) {
    const Clock::time_point begin = Clock::now();
    std::optional<Metrics> metrics;
    model.set_training(false);
    model.set_result_device(at::Device(at::kCPU));  // where the tasks compare
    try {
      metrics = task_->evaluate(model, limit, interruptible());
    } catch (const Interrupted&) {
    }
    model.set_result_device(std::nullopt);
    evaluation_seconds_ += seconds_since(begin);
    return metrics;
  }

  void measure_step(StepRecord& record) {
    std::optional<Metrics> metrics;
    {
      const AveragedWeights::Scope averaged(average_);
      metrics = measure(model_, recipe_.evaluate_limit);
    }
    state_.unmeasured = metrics ? std::nullopt : std::optional(record);
    if (metrics) {
      record.metrics = std::move(*metrics);
      keep_best(record.metrics);
    }
  }

  // The measurement that the interrupted run still owed. @return whether it was done
  bool measure_late() {
    StepRecord record = record_of(state_.unmeasured->loss);
    record.learning_rate = state_.unmeasured->learning_rate;
    record.gradient_norm = state_.unmeasured->gradient_norm;
    measure_step(record);
    if (state_.unmeasured) {
      return false;
    }
    log(record);
    if (options_.on_step) {
      options_.on_step(record);
    }
    return true;
  }

  void keep_best(const Metrics& metrics) {
    if (recipe_.keep_best.empty() || !leads()) {
      return;
    }
    const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const auto& metric) {
      return metric.first == recipe_.keep_best;
    });
    if (found == metrics.end()) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe_.path.string()), ": keep_best is ",
                      printable(recipe_.keep_best), ", but the task measures no such thing"));
    }
    const bool better = !state_.best || (recipe_.best_is_lowest ? found->second < *state_.best
                                                                : found->second > *state_.best);
    if (better) {
      state_.best = found->second;
      tasks::save_bundle(bundle(), options_.out / "best");
    }
  }

  // The log first: resume drops lines of steps that the checkpoint does not know, but cannot make
  // those that are missing.
  void save() {
    if (leads()) {
      log_.sync();
      save_checkpoint(checkpoint_path(folder_, state_.step), trained(), state_);
      remove_old_checkpoints(folder_, recipe_.keep_checkpoints);
    }
    group_.barrier("saving");
  }

  // The model as it is saved: averaged if asked, in the stored dtype.
  tasks::Bundle bundle() {
    const AveragedWeights::Scope averaged(average_);
    tasks::Bundle made;
    made.spec = recipe_.model;
    made.weights = converted(model_.parameters().to_arrays(), recipe_.save_dtype);
    made.preprocessor = recipe_.preprocessor;
    return made;
  }

  // Saves the model, and measures what was saved: the stored dtype may round. Nothing if the
  // measurement was interrupted.
  std::optional<Metrics> finish() {
    optimiser_.release();  // they are in the checkpoint; the saved model takes their place
    const tasks::Bundle finished = bundle();
    if (leads()) {
      tasks::save_bundle(finished, options_.out);
    }
    nn::Model saved(recipe_.model, converted(finished.weights, DType::kF32),
                    {.device = model_.options().device});
    read_together(saved);
    std::optional<Metrics> metrics = measure(saved, 0);
    if (metrics) {
      StepRecord record = record_of(state_.mean_loss);
      record.metrics = *metrics;
      record.finished = true;
      log(record);
      if (leads()) {
        log_.sync();
      }
    }
    group_.barrier("measuring");
    return metrics;
  }

  void describe(TrainResult& result) {
    const StepRecord record = record_of(state_.mean_loss);
    result.steps = state_.step;
    result.loss = state_.mean_loss;
    result.seconds = record.seconds;
    result.examples_per_second = record.examples_per_second;
    result.waiting_share = record.waiting_share;
    result.peak_rss_bytes = tasks::peak_rss_bytes();
    result.skipped = record.skipped;
    result.start = start_from_;
    if (!step_seconds_.empty()) {
      const auto middle = step_seconds_.begin() + static_cast<int64_t>(step_seconds_.size() / 2);
      std::nth_element(step_seconds_.begin(), middle, step_seconds_.end());
      result.median_step_seconds = *middle;
    }
  }

  const Recipe& recipe_;
  const TrainOptions& options_;
  distributed::Group& group_;
  GroupMerger merger_;
  std::filesystem::path folder_;
  std::unique_ptr<Task> task_;
  StartReport start_from_;  // before the model: filled while its weights are made
  nn::Model model_;
  Optimiser optimiser_;
  AveragedWeights average_;
  ComputeModel compute_;
  Step step_;
  RunState state_;
  RunLog log_;
  std::optional<FileLock> lock_;
  std::optional<Loader> loader_;  // last: its threads use the task
  int64_t first_step_ = 0;
  Clock::time_point start_;
  double evaluation_seconds_ = 0;
  std::vector<double> step_seconds_;
};

void set_threads(int count) {
  if (count > 0) {
    at::set_num_threads(count);
  }
}

// Processes of one group on one machine share its cores.
int threads_of(const TrainOptions& options, const distributed::Group& group) {
  if (options.num_threads > 0 || group.local_size() <= 1) {
    return options.num_threads;
  }
  return std::max(1, at::get_num_threads() / group.local_size());
}

}  // namespace

TrainResult train(const Recipe& recipe, const TrainOptions& options) {
  if (options.out.empty()) {
    throw Error(ErrorCode::kArgument, "training needs a folder to write to (--out DIR)");
  }
  const std::unique_ptr<distributed::Group> alone = distributed::alone();
  distributed::Group& group = options.group != nullptr ? *options.group : *alone;
  set_threads(threads_of(options, group));
  try {
    return Run(recipe, options, group).run();
  } catch (const std::exception& error) {
    group.leave(error.what());
    throw;
  }
}

EvalResult evaluate(const Recipe& recipe, const std::filesystem::path& model,
                    const EvalOptions& options) {
  set_threads(options.num_threads);
  const tasks::Bundle bundle = tasks::load_bundle(model);
  const std::unique_ptr<Task> task =
      recipe.task_recipe->make(recipe, bundle.spec, TaskData::kTestOnly);
  nn::Model loaded(bundle.spec, bundle.weights, {.device = nn::parse_device(options.device)});
  loaded.set_result_device(at::Device(at::kCPU));
  EvalResult result;
  const int64_t all = task->test_examples();
  result.examples = options.limit > 0 ? std::min(options.limit, all) : all;
  result.metrics = task->evaluate(loaded, options.limit, options.progress);
  return result;
}

}  // namespace perceiver::train
