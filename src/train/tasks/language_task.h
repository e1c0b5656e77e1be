#pragma once

#include <filesystem>
#include <memory>

#include "train/data/masking.h"
#include "train/data/text_corpus.h"
#include "train/task.h"

namespace perceiver::train {

/// masked_language_model: one text input, one output [B, T, vocab].
struct LanguageRecipe : TaskRecipe {
  TextDataSpec text;
  MaskingSpec masking;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_language_recipe(Fields& fields,
                                                       const std::filesystem::path& folder);

}  // namespace perceiver::train
