#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "train/data/tensor_files.h"
#include "train/task.h"

namespace perceiver::train {

enum class TensorLoss {
  kCrossEntropy,  ///< target: class numbers, shaped as the output without its last axis
  kBinary,        ///< target: 0 or 1, shaped as the output; independent yes-no answers
  kMse,           ///< target: shaped as the output
  kL1,
};

struct TensorInput {
  std::string input, array;
  std::string mask;  ///< array [n, tokens], not 0 where a token counts; empty = all do
  double mean = 0, deviation = 1;  ///< the model reads (value - mean) / deviation
};

struct TensorOutput {
  std::string output, array;
  std::string mask;     ///< array of the target's leading axes, not 0 where it counts
  std::string queries;  ///< array of what the caller asks (queries `coordinates` and `caller`)
  TensorLoss loss = TensorLoss::kCrossEntropy;
  double weight = 1;
  double label_smoothing = 0;  ///< kCrossEntropy
};

struct TensorDataSpec {
  TensorFilesSpec train, test;
  double held_out = 0.1;  ///< of `train`, where there is no `test`
  std::vector<TensorInput> inputs;
  std::vector<TensorOutput> outputs;
};

/// tensors: any model; arrays for its inputs and for what its outputs should say.
struct TensorRecipe : TaskRecipe {
  TensorDataSpec data;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_tensor_recipe(Fields& fields,
                                                     const std::filesystem::path& folder);

}  // namespace perceiver::train
