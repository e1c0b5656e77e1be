#include "train/tasks/text_tasks.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <set>

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/bytes_tokenizer.h"
#include "perceiver/tasks/text.h"
#include "train/data/padded_ids.h"
#include "train/scores.h"

namespace perceiver::train {
namespace {

using io::ByteVocabulary;

constexpr const char* kTask = "text_tasks";
constexpr int64_t kTestBatch = 32;
constexpr int64_t kPairFrame = 3;  // [CLS] first [SEP] second [SEP]

// A task with its examples and its place in the model.
struct LoadedTask {
  LoadedTask(const TextTaskSpec& of, std::string of_output)
      : spec(of), output(std::move(of_output)) {}

  const TextTaskSpec& spec;
  std::string output;
  bool at_first_token = false;  // the output's queries are the input's tokens
  std::vector<TextExample> train, test;
  at::Tensor class_weights;  // [classes], undefined when all weigh alike

  bool regression() const { return spec.labels.empty(); }
};

// What a model answered on the test part of one task, against what is true.
class Answers {
 public:
  explicit Answers(const TextTaskSpec& spec)
      : spec_(spec), confusion_(std::max<int64_t>(1, static_cast<int64_t>(spec.labels.size()))) {}

  // @param rows [n, classes] or [n, 1]  @param wanted [n], classes or values
  void add(const at::Tensor& rows, const at::Tensor& wanted) {
    const at::Tensor answered = spec_.labels.empty() ? rows.squeeze(1) : rows.argmax(1);
    for (int64_t i = 0; i < wanted.size(0); ++i) {
      if (spec_.labels.empty()) {
        truth_.push_back(wanted[i].item<double>());
        answer_.push_back(answered[i].item<double>());
      } else {
        const auto label = wanted[i].item<int64_t>();
        confusion_.add(label, answered[i].item<int64_t>());
        truth_.push_back(static_cast<double>(label));
      }
    }
  }

  double measure(TextMetric metric) const {
    switch (metric) {
      case TextMetric::kAccuracy:
        return confusion_.accuracy();
      case TextMetric::kF1:
        return spec_.labels.size() == 2 ? confusion_.f1(1) : confusion_.macro_f1();
      case TextMetric::kMatthews:
        return confusion_.matthews();
      case TextMetric::kMajority:
        return majority();
      case TextMetric::kPearson:
        return pearson(truth_, answer_);
      case TextMetric::kSpearman:
        return spearman(truth_, answer_);
      case TextMetric::kRmse:
        return rmse();
    }
    return 0;
  }

 private:
  // Share of the class that is true most often: the best that one answer to everything can do.
  double majority() const {
    std::vector<double> counts(spec_.labels.size(), 0);
    for (const double label : truth_) {
      ++counts[static_cast<size_t>(label)];
    }
    return *std::max_element(counts.begin(), counts.end()) /
           static_cast<double>(std::max<size_t>(1, truth_.size()));
  }

  double rmse() const {
    double squares = 0;
    for (size_t i = 0; i < truth_.size(); ++i) {
      squares += (truth_[i] - answer_[i]) * (truth_[i] - answer_[i]);
    }
    return std::sqrt(squares / static_cast<double>(std::max<size_t>(1, truth_.size())));
  }

  const TextTaskSpec& spec_;
  Confusion confusion_;
  std::vector<double> truth_, answer_;
};

const char* metric_name(TextMetric metric) {
  switch (metric) {
    case TextMetric::kAccuracy:
      return "accuracy";
    case TextMetric::kF1:
      return "f1";
    case TextMetric::kMatthews:
      return "matthews";
    case TextMetric::kMajority:
      return "majority";
    case TextMetric::kPearson:
      return "pearson";
    case TextMetric::kSpearman:
      return "spearman";
    case TextMetric::kRmse:
      return "rmse";
  }
  return "";
}

class TextTasks : public Task {
 public:
  TextTasks(const Recipe& recipe, const TextTasksRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe),
        own_(own),
        input_(only_input(model, InputKind::kText, kTask)),
        window_(input_.index_dims.at(0)) {
    check_vocabulary(model);
    bad_.limit = recipe.skip_bad;
    for (const TextTaskSpec& spec : own.tasks) {
      LoadedTask& task = tasks_.emplace_back(spec, find_output(model, spec).name);
      task.at_first_token = check_output(model, task);
      load(task, part);
    }
    if (part == TaskData::kTrainAndTest) {
      check_all_outputs_are_trained(model);
      std::vector<int64_t> sizes;
      for (const LoadedTask& task : tasks_) {
        sizes.push_back(static_cast<int64_t>(task.train.size()));
      }
      mixture_.emplace(recipe.seed, sizes, own.sampling);
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<Chosen> chosen;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const Mixture::Place place = mixture_->at(index * recipe_.batch_size + i);
      const auto task = static_cast<size_t>(place.task);
      chosen.push_back({task, &tasks_[task].train[static_cast<size_t>(place.example)]});
    }
    return make_batch(chosen);
  }

  // One mean over the examples, each asked by its own task alone. Every output takes part, if only
  // by a gradient of 0, so that all processes of a run have the same gradients to sum.
  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    at::Tensor sum;
    for (size_t k = 0; k < tasks_.size(); ++k) {
      const at::Tensor answers = answers_of(outputs, tasks_[k]);
      const at::Tensor rows = rows_of(batch, k);
      const at::Tensor part = rows.size(0) == 0
                                  ? answers.sum().mul(0)
                                  : task_loss(tasks_[k], answers.index_select(0, rows),
                                              batch.targets.at(tasks_[k].output), rows);
      sum = sum.defined() ? sum.add(part) : part;
    }
    return sum.mul(shares.at(0) / static_cast<double>(batch.mask.size(0)));
  }

  int64_t skipped() const override { return bad_.skipped; }

  int64_t test_examples() const override {
    int64_t count = 0;
    for (const LoadedTask& task : tasks_) {
      count += static_cast<int64_t>(task.test.size());
    }
    return count;
  }

  // A limit is shared out over the tasks by the sizes of their test parts.
  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t all = test_examples();
    Metrics metrics;
    double main = 0;
    int64_t done = 0;
    for (size_t k = 0; k < tasks_.size(); ++k) {
      auto count = static_cast<int64_t>(tasks_[k].test.size());
      if (limit > 0 && limit < all) {
        count = std::max<int64_t>(1, count * limit / all);
      }
      const Answers answers = ask(model, k, count);
      done += count;
      if (progress) {
        progress({"evaluate", done, limit > 0 ? std::min(limit, all) : all, tasks_[k].spec.name});
      }
      for (const TextMetric metric : tasks_[k].spec.metrics) {
        const std::string prefix = tasks_.size() > 1 ? tasks_[k].spec.name + "_" : "";
        metrics.emplace_back(prefix + metric_name(metric), answers.measure(metric));
      }
      main += answers.measure(tasks_[k].spec.metrics.front());
    }
    if (tasks_.size() > 1) {
      metrics.emplace_back("average", main / static_cast<double>(tasks_.size()));
    }
    return metrics;
  }

 private:
  struct Chosen {
    size_t task;
    const TextExample* example;
  };

  void check_vocabulary(const ModelSpec& model) {
    special_tokens_ = tasks::adds_special_tokens({model, {}, recipe_.preprocessor, recipe_.path});
    const int64_t vocabulary =
        ByteVocabulary::kSize + (own_.task_token ? static_cast<int64_t>(own_.tasks.size()) : 0);
    if (input_.vocab_size != vocabulary) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, " reads bytes", own_.task_token ? " and a first token per task" : "",
                      ": the model's vocabulary must be ", vocabulary, ", is ", input_.vocab_size));
    }
    const bool pairs = std::any_of(own_.tasks.begin(), own_.tasks.end(), reads_pairs);
    if (!special_tokens_ && (pairs || own_.task_token)) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(recipe_.path.string()), ": ",
                      pairs ? "pairs of texts are told apart by [SEP]"
                            : "data.first_token is task, which stands in the place of [CLS]",
                      ": preprocessor needs \"add_special_tokens\": true"));
    }
  }

  static bool reads_pairs(const TextTaskSpec& spec) {
    return spec.generated ? asks_pairs(spec.generated->question) : spec.table.text.size() == 2;
  }

  const OutputSpec& find_output(const ModelSpec& model, const TextTaskSpec& spec) const {
    const std::string& wanted = spec.output.empty() ? spec.name : spec.output;
    std::string known;
    for (const OutputSpec& output : model.outputs) {
      if (output.name == wanted) {
        return output;
      }
      known += (known.empty() ? "" : ", ") + printable(output.name);
    }
    if (spec.output.empty() && own_.tasks.size() == 1 && model.outputs.size() == 1) {
      return model.outputs[0];
    }
    throw Error(ErrorCode::kArgument, cat("task ", printable(spec.name), " needs output '",
                                          printable(wanted), "'; the model has: ", known));
  }

  // @return whether the output is read at the first token
  bool check_output(const ModelSpec& model, const LoadedTask& task) const {
    const OutputSpec& output = model.output(task.output);
    const int64_t width = output_width(model, output);
    const int64_t wanted = task.regression() ? 1 : static_cast<int64_t>(task.spec.labels.size());
    if (width != wanted) {
      throw Error(ErrorCode::kArgument,
                  cat("output ", printable(output.name), " has ", width, " channel(s), task ",
                      printable(task.spec.name), " needs ", wanted));
    }
    const bool at_first_token =
        output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent;
    if (!output.single_row && !at_first_token && model.decoder.kind == DecoderKind::kCrossAttend) {
      throw Error(ErrorCode::kArgument,
                  cat("output ", printable(output.name), " of task ", printable(task.spec.name),
                      " must be one row (single_row) or have the input's tokens as queries"));
    }
    return at_first_token;
  }

  void check_all_outputs_are_trained(const ModelSpec& model) const {
    std::set<std::string> asked;
    for (const LoadedTask& task : tasks_) {
      if (!asked.insert(task.output).second) {
        throw Error(ErrorCode::kArgument,
                    cat("output ", printable(task.output), " belongs to more than one task"));
      }
    }
    for (const OutputSpec& output : model.outputs) {
      if (asked.count(output.name) == 0) {
        throw Error(ErrorCode::kArgument, cat("output ", printable(output.name),
                                              " of the model belongs to no task in data.tasks"));
      }
    }
  }

  void load(LoadedTask& task, TaskData part) {
    const bool training = part == TaskData::kTrainAndTest;
    if (task.spec.generated) {
      generate(task, training);
    } else {
      read(task, training);
    }
    if (training && task.spec.balanced) {
      task.class_weights = balanced_weights(task);
    }
    check_lengths(task, task.train, "training");
    check_lengths(task, task.test, "test");
  }

  // Inverse to how often a class is among the training examples, 1 on average over them.
  static at::Tensor balanced_weights(const LoadedTask& task) {
    const size_t classes = task.spec.labels.size();
    std::vector<int64_t> counts(classes, 0);
    for (const TextExample& example : task.train) {
      ++counts[static_cast<size_t>(example.label)];
    }
    at::Tensor weights = at::zeros({static_cast<int64_t>(classes)}, at::kFloat);
    for (size_t k = 0; k < classes; ++k) {
      if (counts[k] == 0) {
        throw Error(ErrorCode::kArgument,
                    cat("task ", printable(task.spec.name), ": class_weights is balanced, but no ",
                        "training example is labelled ", printable(task.spec.labels[k], 40)));
      }
      weights.mutable_data_ptr<float>()[k] = static_cast<float>(task.train.size()) /
                                             static_cast<float>(classes) /
                                             static_cast<float>(counts[k]);
    }
    return weights;
  }

  void read(LoadedTask& task, bool training) {
    const TextTaskSpec& spec = task.spec;
    if (!spec.test.empty()) {
      task.test = read_text_examples(spec.test, spec.table, bad_);
      if (training) {
        task.train = read_text_examples(spec.train, spec.table, bad_);
      }
      return;
    }
    task.train = read_text_examples(spec.train, spec.table, bad_);
    const auto all = static_cast<double>(task.train.size());
    const auto kept = static_cast<std::ptrdiff_t>(all * (1 - spec.held_out));
    if (kept == 0 || kept == static_cast<std::ptrdiff_t>(task.train.size())) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(spec.train.string()), ": held_out ", spec.held_out, " of ",
                      task.train.size(), " rows leaves nothing to train on or to test with"));
    }
    task.test.assign(task.train.begin() + kept, task.train.end());
    task.train.resize(training ? static_cast<size_t>(kept) : 0);
  }

  void generate(LoadedTask& task, bool training) const {
    const GeneratedTexts& made = *task.spec.generated;
    const int64_t bytes = window_ - kPairFrame;
    if (bytes < kMinOverlapBytes) {
      throw Error(ErrorCode::kArgument,
                  cat("task ", printable(task.spec.name), ": generated texts need a model of ",
                      kMinOverlapBytes + kPairFrame, " tokens, it reads ", window_));
    }
    const std::deque<TextCorpus> corpora = read_corpora(made, bytes);
    if (training) {
      task.train = generate_text_examples(made, corpora, false, recipe_.seed, bytes);
    }
    task.test = generate_text_examples(made, corpora, true, recipe_.seed, bytes);
  }

  void check_lengths(const LoadedTask& task, const std::vector<TextExample>& examples,
                     const char* part) const {
    if (own_.cut_long) {
      return;
    }
    const int64_t frame = !special_tokens_ ? 0 : reads_pairs(task.spec) ? kPairFrame : 2;
    int64_t longest = 0;
    int64_t too_long = 0;
    for (const TextExample& example : examples) {
      const auto bytes = static_cast<int64_t>(example.first.size() + example.second.size());
      longest = std::max(longest, bytes + frame);
      too_long += bytes + frame > window_ ? 1 : 0;
    }
    if (too_long > 0) {
      throw Error(ErrorCode::kArgument,
                  cat("task ", printable(task.spec.name), ": ", too_long, " of ", examples.size(),
                      " ", part, " examples take more than the model's ", window_,
                      " tokens, the longest ", longest, "; data.long_text \"cut\" would cut them"));
    }
  }

  std::vector<int64_t> tokens_of(const Chosen& chosen) const {
    io::EncodeOptions options;
    options.add_special_tokens = special_tokens_;
    options.read_special_tokens = false;  // what a data set spells "[MASK]" is text
    options.max_length = window_;
    options.truncate = own_.cut_long;
    const TextExample& example = *chosen.example;
    io::EncodedText text = reads_pairs(tasks_[chosen.task].spec)
                               ? io::encode_text_pair(example.first, example.second, options)
                               : io::encode_text(example.first, options);
    if (own_.task_token) {
      text.ids[0] = ByteVocabulary::kSize + static_cast<int64_t>(chosen.task);
    }
    return std::move(text.ids);
  }

  // Targets are [B], meaningless where the mask [B, tasks] says that the example is another task's.
  Batch make_batch(const std::vector<Chosen>& chosen) const {
    const auto count = static_cast<int64_t>(chosen.size());
    Batch batch;
    batch.mask = at::zeros({count, static_cast<int64_t>(tasks_.size())}, at::kBool);
    for (const LoadedTask& task : tasks_) {
      batch.request.only.push_back(task.output);
      if (task.at_first_token) {
        batch.request.points[task.output] = {0};
      }
      batch.targets[task.output] = at::zeros({count}, task.regression() ? at::kFloat : at::kLong);
    }
    std::vector<std::vector<int64_t>> rows;
    for (int64_t i = 0; i < count; ++i) {
      const Chosen& one = chosen[static_cast<size_t>(i)];
      rows.push_back(tokens_of(one));
      batch.mask.mutable_data_ptr<bool>()[i * batch.mask.size(1) + static_cast<int64_t>(one.task)] =
          true;
      at::Tensor& target = batch.targets[tasks_[one.task].output];
      if (tasks_[one.task].regression()) {
        target.mutable_data_ptr<float>()[i] = static_cast<float>(one.example->value);
      } else {
        target.mutable_data_ptr<int64_t>()[i] = one.example->label;
      }
    }
    PaddedIds padded = pad_ids(rows);
    batch.inputs.arrays.emplace(input_.name, std::move(padded.ids));
    batch.inputs.masks.emplace(input_.name, std::move(padded.mask));
    return batch;
  }

  // [B, classes] or [B, 1]; an output at the first token has an axis of one row in between.
  static at::Tensor answers_of(const nn::TensorMap& outputs, const LoadedTask& task) {
    const at::Tensor& answers = outputs.at(task.output);
    return task.at_first_token ? answers.select(1, 0) : answers;
  }

  // Which examples of the batch are the k-th task's.
  static at::Tensor rows_of(const Batch& batch, size_t k) {
    return batch.mask.select(1, static_cast<int64_t>(k)).nonzero().squeeze(1);
  }

  // Sum over the task's examples: cross-entropy in nats times the class's weight, or squared
  // errors.
  static at::Tensor task_loss(const LoadedTask& task, const at::Tensor& answers,
                              const at::Tensor& targets, const at::Tensor& rows) {
    const at::Tensor wanted = targets.index_select(0, rows);
    at::Tensor weights = task.class_weights;
    if (weights.defined()) {
      weights = weights.to(answers.device());
    }
    const at::Tensor sum =
        task.regression() ? at::mse_loss(answers.squeeze(1), wanted, at::Reduction::Sum)
                          : at::cross_entropy_loss(answers, wanted, weights, at::Reduction::Sum);
    return sum.mul(task.spec.weight);
  }

  Answers ask(nn::Model& model, size_t k, int64_t count) const {
    const LoadedTask& task = tasks_[k];
    Answers answers(task.spec);
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      std::vector<Chosen> chosen;
      for (int64_t i = begin; i < std::min(begin + kTestBatch, count); ++i) {
        chosen.push_back({k, &task.test[static_cast<size_t>(i)]});
      }
      Batch batch = make_batch(chosen);
      batch.request.only = {task.output};
      const nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
      answers.add(answers_of(outputs, task), batch.targets.at(task.output));
    }
    return answers;
  }

  const Recipe& recipe_;
  const TextTasksRecipe& own_;
  InputSpec input_;
  int64_t window_ = 0;  // tokens, special ones included
  bool special_tokens_ = false;
  BadRows bad_;
  std::deque<LoadedTask> tasks_;
  std::optional<Mixture> mixture_;
};

}  // namespace

std::unique_ptr<Task> TextTasksRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                            TaskData part) const {
  return std::make_unique<TextTasks>(recipe, *this, model, part);
}

}  // namespace perceiver::train
