#pragma once

#include <filesystem>
#include <memory>

#include "train/data/image_data.h"
#include "train/task.h"

namespace perceiver::train {

/// image_classification: one grid input [H, W, c], one output [B, classes].
struct ImageRecipe : TaskRecipe {
  ImageDataSpec data;
  double label_smoothing = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_image_recipe(Fields& fields,
                                                    const std::filesystem::path& folder);

}  // namespace perceiver::train
