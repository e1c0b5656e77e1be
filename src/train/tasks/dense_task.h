#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/data/dense_data.h"
#include "train/task.h"

namespace perceiver::train {

/// dense_classification: one grid input [H, W, c] or [T, c], one output with a row of class logits
/// for every place of it.
struct DenseRecipe : TaskRecipe {
  DenseDataSpec data;
  /// So many places, the same for all examples of a batch, are decoded in training: decoding and
  /// its memory cost by the place. 0 = all. Tests decode all.
  int64_t points = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_dense_recipe(Fields& fields,
                                                    const std::filesystem::path& folder);

}  // namespace perceiver::train
