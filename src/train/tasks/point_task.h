#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/task.h"

namespace perceiver::train {

/// Where point clouds come from: one of files in folders by class, two lists, or solids drawn from
/// the seed.
struct PointDataSpec {
  std::filesystem::path folder;       ///< <class>/train/*, <class>/test/*, as ModelNet comes
  std::filesystem::path train, test;  ///< each a folder <class>/* or a list of path,class
  int64_t train_examples = 0;         ///< > 0: generated solids
  int64_t test_examples = 0;
  double noise = 0.02;  ///< of the solids
  int64_t points = 0;   ///< of each object; 0 = as many as the model reads
  double point_scale = 0.01;
};

/// point_cloud_classification: one set input of coordinates (and normals, with 3 channels), one
/// output [B, classes].
struct PointRecipe : TaskRecipe {
  PointDataSpec data;
  double label_smoothing = 0;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_point_recipe(Fields& fields,
                                                    const std::filesystem::path& folder);

}  // namespace perceiver::train
