#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/base/progress.h"
#include "perceiver/nn/model.h"
#include "perceiver/train/recipe.h"
#include "perceiver/train/train.h"
#include "train/fields.h"

namespace perceiver::train {

/// What one step sees.
struct Batch {
  nn::TensorInputs inputs;
  nn::TensorRequest request;
  nn::TensorMap targets;  ///< by output name: what the loss compares with
  at::Tensor mask;        ///< which targets count; undefined = all
};

/// How many values each mean of a loss runs over, and which part of a whole step's such mean a
/// batch contributes. A step may be made of several batches: micro-batches here, others on other
/// machines. Shares are 1 when it is made of one.
using Counts = std::vector<double>;
using Shares = std::vector<double>;

/// Data, loss and metrics of one kind of problem. The loop in train.cpp knows nothing else about
/// it: a new kind of problem is one more subclass, its TaskRecipe and its line in task_kinds.cpp.
class Task {
 public:
  virtual ~Task() = default;
  /// The index-th batch of the run: a function of the recipe's seed and `index` alone, made of
  /// examples index * batch_size and following, so that batches 2i and 2i + 1 are batch i of twice
  /// the size. Called from several threads at once; must not draw from LibTorch's generator.
  virtual Batch training_batch(int64_t index) = 0;
  /// Over how many values the means of this batch's loss run; by default one mean over examples.
  virtual Counts counts(const Batch& batch) const;
  /// Sum over the loss's means, each times its share. @return [], differentiable
  virtual at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                          const Shares& shares) const = 0;
  /// Samples that could not be read and were replaced (Recipe::skip_bad).
  virtual int64_t skipped() const { return 0; }
  virtual int64_t test_examples() const = 0;
  /// Measures on the first `limit` test examples (0 = all).
  virtual Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const = 0;
};

enum class TaskData { kTrainAndTest, kTestOnly };

/// What a recipe says that only its task reads: where the data are, how they are changed.
class TaskRecipe {
 public:
  virtual ~TaskRecipe() = default;
  /// Reads the data and checks that `model` fits it. `recipe` outlives the task.
  /// @throws Error(kArgument) naming both sides of a misfit; what the readers throw
  virtual std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                                     TaskData part) const = 0;
};

/// One kind of problem: the word for it in a recipe's `task`, and what reads the rest.
struct TaskKind {
  const char* name;
  /// @param fields  the whole recipe; takes `data` and whatever else this task knows
  /// @param folder  where relative data paths start
  std::shared_ptr<const TaskRecipe> (*read)(Fields& fields, const std::filesystem::path& folder);
};
/// Every kind of problem; tasks/task_kinds.cpp is the list.
const std::vector<TaskKind>& task_kinds();

/// The only input and the only output of a model, checked.
/// @throws Error(kArgument) when there are more or the input is of another kind
const InputSpec& only_input(const ModelSpec& model, InputKind kind, const char* task);
const OutputSpec& only_output(const ModelSpec& model, const char* task);
/// Width of an output's logits: its head's, or the decoder's own.
int64_t output_width(const ModelSpec& model, const OutputSpec& output);
/// Classes the only output tells apart.
/// @throws Error(kArgument) unless it is one row that drops its index axis
int64_t class_count(const ModelSpec& model, const char* task);

/// Share of rows whose largest logit is at the label. @param logits [B, K] @param labels [B]
double count_correct(const at::Tensor& logits, const at::Tensor& labels);

}  // namespace perceiver::train
