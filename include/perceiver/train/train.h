#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "perceiver/base/json.h"
#include "perceiver/base/progress.h"
#include "perceiver/train/recipe.h"

namespace perceiver::distributed {
class Group;
}

namespace perceiver::train {

/// Measured values by name, in a fixed order: {"accuracy", 0.98}, ...
using Metrics = std::vector<std::pair<std::string, double>>;

/// One line of the run's history.
struct StepRecord {
  int64_t step = 0;      ///< steps finished
  int64_t steps = 0;     ///< of the whole run
  double loss = 0;       ///< of this step's batch, as trained (nats)
  double mean_loss = 0;  ///< moving average over about the last 50 steps
  double learning_rate = 0;
  double gradient_norm = 0;        ///< before clipping
  double examples_per_second = 0;  ///< since the run (or its resumption) began, evaluation excluded
  double step_seconds = 0;         ///< of this step alone
  double seconds = 0;              ///< since the beginning, everything included
  int64_t skipped = 0;             ///< unreadable samples left out so far
  double waiting_share = 0;        ///< of the training time since then: waiting for data
  Metrics metrics;                 ///< filled on steps that evaluated
  bool finished = false;           ///< no step: the measurement of the finished model, as saved
};

/// What a run took from Recipe::start_from. Names are tensors of our layout.
struct StartReport {
  std::filesystem::path model;      ///< empty: nothing, all weights are random
  std::vector<std::string> taken;   ///< from the model, whole or (tables of another length) in part
  std::vector<std::string> fresh;   ///< new: heads, what `except` names
  std::vector<std::string> unused;  ///< the model's alone
  std::vector<std::string> notes;   ///< sentences: what differs although the tensors fit
};

/// As log.jsonl has it.
Json to_json(const StepRecord& record);

struct TrainOptions {
  std::filesystem::path
      out;               ///< becomes a model folder, with `training/` inside for the run itself
  bool resume = false;   ///< continue from the newest checkpoint in `out`/training
  bool restart = false;  ///< replace a run that `out` holds; without it that is an error
  int num_threads = 0;   ///< 0 = LibTorch's choice, shared with other processes on this machine
  int num_loaders = 1;   ///< background threads that make batches; 0 = none
  std::string device = "cpu";  ///< cpu, cuda:N, or cuda: each process of a machine its own GPU
  std::function<void(const StepRecord&)> on_step;
  std::function<void(const StartReport&)> on_start;  ///< before the first step, with start_from
  ProgressFn progress;                               ///< reading data, evaluating
  /// What goes on differently than asked: a damaged checkpoint passed over, a precision not had.
  std::function<void(const std::string&)> on_note;
  const std::atomic<bool>* stop = nullptr;  ///< set from a signal handler: save and leave
  /// The processes that train together (docs/many-machines.md); null = this one alone. Rank 0
  /// writes; on_step and progress are called on every rank.
  distributed::Group* group = nullptr;
};

struct TrainResult {
  int64_t steps = 0;     ///< finished
  bool stopped = false;  ///< by TrainOptions::stop; the checkpoint is written, resume does the rest
  double loss = 0;       ///< moving average at the end
  double seconds = 0;
  double median_step_seconds = 0;  ///< of the steps since the run (or its resumption) began
  double examples_per_second = 0;  ///< since then, evaluation excluded
  double waiting_share = 0;        ///< of the training time since then: waiting for data
  int64_t peak_rss_bytes = 0;      ///< of this process so far
  int64_t skipped = 0;             ///< unreadable samples left out
  Metrics metrics;                 ///< of the model as saved, on the whole test part
  StartReport start;               ///< of a run that was not resumed
};

/// Trains `recipe` and writes:
///   out/                                      the model folder (tasks::save_bundle), at the end
///   out/best/                                 the best model so far, with Recipe::keep_best
///   out/training/checkpoint-<steps>.safetensors  weights, optimiser state, step: enough to go on
///                                             exactly; the newest Recipe::keep_checkpoints
///   out/training/recipe.json                  the recipe as run
///   out/training/start.json                   with Recipe::start_from: StartReport
///   out/training/log.jsonl                    one line per logged step, as it is made
///   out/training/events.out.tfevents.*        the same for TensorBoard
/// Batches, masks and augmentation are functions of (seed, step) alone, so a resumed run equals an
/// uninterrupted one bit for bit on the same machine and thread count. The process may die at any
/// moment: files of the run get their names when they are whole and on the disk. Resuming takes the
/// newest checkpoint that loads, renames newer ones to *.damaged and says so by on_note.
/// @throws Error(kArgument) before the first step for a recipe that does not fit its data or model,
///         or a checkpoint of another recipe; Error(kFormat) when no checkpoint loads; Error(kIo)
///         when a file cannot be written or another process trains in `out`;
///         Error(kArgument) naming the step when the loss is not finite (the checkpoints stay);
///         Error(kIo) naming the rank when another process of the group is gone
TrainResult train(const Recipe& recipe, const TrainOptions& options);

struct EvalOptions {
  int64_t limit = 0;  ///< test examples; 0 = all
  int num_threads = 0;
  std::string device = "cpu";  ///< cpu, cuda or cuda:N
  ProgressFn progress;
};

struct EvalResult {
  int64_t examples = 0;
  Metrics metrics;
};

/// Measures a saved model on the recipe's test part (held-out text, test images).
/// @throws Error(kArgument) when the model's input or output does not fit the recipe's task
EvalResult evaluate(const Recipe& recipe, const std::filesystem::path& model,
                    const EvalOptions& options = {});

}  // namespace perceiver::train
