#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/data/labelled_text.h"
#include "train/task.h"

namespace perceiver::train {

/// Labelled texts made of plain ones.
struct GeneratedLabels {
  LabelQuestion question = LabelQuestion::kQuoted;
  TextDataSpec text;
  int64_t train_examples = 0;
  int64_t test_examples = 0;
};

/// token_labelling: one text input, one output [B, T, classes] whose row i says what token i is:
/// queries that are the input's tokens, or a learned one for each place.
struct TokenLabellingRecipe : TaskRecipe {
  std::vector<std::string> labels;
  std::filesystem::path train, test;  ///< files, unless generated
  bool first_byte_only = false;
  std::optional<GeneratedLabels> generated;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_token_labelling_recipe(Fields& fields,
                                                              const std::filesystem::path& folder);

}  // namespace perceiver::train
