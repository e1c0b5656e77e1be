#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/data/mixture.h"
#include "train/data/text_examples.h"
#include "train/task.h"

namespace perceiver::train {

enum class TextMetric { kAccuracy, kF1, kMatthews, kMajority, kPearson, kSpearman, kRmse };

/// One question about a text or a pair of texts.
struct TextTaskSpec {
  std::string name;
  std::string output;               ///< of the model; by default its name, or the only output
  std::vector<std::string> labels;  ///< classes; empty = regression
  double weight = 1;                ///< of its examples in the loss
  bool balanced = false;            ///< rare classes weigh more, so that all weigh alike together
  std::vector<TextMetric> metrics;  ///< the first enters the average
  // Its examples: a table, or generated.
  std::filesystem::path train, test;  ///< test empty: the last `held_out` rows of train
  double held_out = 0.1;
  TableSource table;
  std::optional<GeneratedTexts> generated;
};

/// text_tasks: one text input; every task has an output of its own of one row, [B, classes] or, for
/// a regression, [B, 1]. A learned query each is the paper's multitask model. Of an output whose
/// queries are the input's tokens, [B, T, classes], the row of the first token is the answer: that
/// of [CLS] or of a token of the task's own.
struct TextTasksRecipe : TaskRecipe {
  std::vector<TextTaskSpec> tasks;
  Sampling sampling = Sampling::kSize;
  bool task_token = false;  ///< the first token is 262 + the task's number instead of [CLS]
  bool cut_long = false;    ///< texts the model cannot read are cut, not refused

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_text_tasks_recipe(Fields& fields,
                                                         const std::filesystem::path& folder);

}  // namespace perceiver::train
