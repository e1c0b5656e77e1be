#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/parameters.h"

// A recipe is one JSON file that says everything a training run depends on. docs/training.md lists
// its keys; every key is checked before the first step and an unknown one is an error.

namespace perceiver::train {

class TaskRecipe;  // src/train/task.h

enum class OptimiserKind { kAdamW, kLamb, kSgd };

struct OptimiserSpec {
  OptimiserKind kind = OptimiserKind::kAdamW;
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-6;
  double weight_decay = 0;  ///< not on biases, LayerNorm and batch norm
  double momentum = 0.9;    ///< kSgd
  bool nesterov = false;    ///< kSgd
  double clip_norm = 0;     ///< of all gradients together; 0 = no clipping
};

enum class ScheduleKind {
  kConstant,
  kCosine,          ///< half a cosine from 1 to end_fraction
  kConstantCosine,  ///< 1 for `constant_fraction` of the steps, then the cosine
  kSteps,           ///< times `step_factor` at each of `milestones`
};

struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t steps = 0;               ///< its length; default: the run's. A run may be cut short of it
  int64_t warmup_steps = 0;        ///< rises linearly to 1 first; part of `steps`
  double constant_fraction = 0.5;  ///< kConstantCosine
  double end_fraction = 0;
  std::vector<int64_t> milestones;  ///< kSteps: finished steps, rising
  double step_factor = 0.1;         ///< kSteps
};

enum class Precision {
  kF32,
  kBF16,  ///< forward and backward in bfloat16 where the device multiplies it; float32 weights
};

/// How the weights start.
struct InitSpec {
  InitScheme scheme = InitScheme::kDeepMind;
  double initializer_range = 0.02;    ///< InitScheme::kTransformers
  double embedding_scale = 1;         ///< factor on token embeddings
  bool sinusoidal_positions = false;  ///< trainable position tables start as waves, not as noise
  double position_scale = 1;          ///< factor on trainable position tables of inputs and queries
  /// > 0: latent i starts by reading the i-th part of the input (and rows of a text's output by
  /// reading their own neighbourhood), the more sharply the larger. For a grid with Fourier
  /// positions no wider than the latents, or a text with sinusoidal_positions and equal widths
  /// throughout. Short runs gain most: from random attention a latent bottleneck takes long to find
  /// "next to".
  double local_attention = 0;
};

/// A trained model that a run starts from: fine-tuning.
struct StartFrom {
  std::filesystem::path model;  ///< folder (or Haiku pickle); empty = random weights
  /// Tensors whose names begin with one of these start afresh although the model has them.
  std::vector<std::string> except;
};

struct Recipe {
  std::string name;
  std::string description;
  std::filesystem::path path;  ///< where it was read
  Json source;                 ///< what was read, overrides applied
  ModelSpec model;
  std::string task;                               ///< word of task_kinds(): "image_classification"
  std::shared_ptr<const TaskRecipe> task_recipe;  ///< the keys that only this task reads
  InitSpec init;
  StartFrom start_from;
  OptimiserSpec optimiser;
  ScheduleSpec schedule;
  int64_t batch_size = 0;
  int64_t steps = 0;
  uint64_t seed = 0;
  int64_t evaluate_every = 0;    ///< steps; 0 = at the end only
  int64_t evaluate_limit = 0;    ///< test examples used while training; 0 = all
  int64_t checkpoint_every = 0;  ///< steps; 0 = at the end only
  int64_t keep_checkpoints = 2;  ///< the newest so many stay
  /// Metric by which the best model so far is kept in <out>/best, measured every evaluate_every;
  /// empty = none.
  std::string keep_best;
  bool best_is_lowest = false;
  int64_t skip_bad = 0;    ///< so many samples may be unreadable; each is replaced by the next
  int64_t accumulate = 1;  ///< batches of batch_size a step is made of
  /// Several processes read parts of each input together instead of inputs of their own.
  bool input_parallel = false;
  double average_decay = 0;  ///< > 0: moving average of the weights is what is measured and saved
  Precision precision = Precision::kF32;
  bool recompute = false;  ///< the latents' layers are made again backward instead of kept
  DType save_dtype = DType::kF32;
  std::optional<Json>
      preprocessor;  ///< becomes preprocessor_config.json; images: mean and deviation
};

struct RecipeOptions {
  std::filesystem::path data;  ///< folder of relative data paths; empty = the recipe's own
  std::vector<std::pair<std::string, std::string>>
      overrides;  ///< {"optimiser.learning_rate", "1e-3"}
};

/// Reads and checks a recipe. Data files must exist; they are not read yet.
/// @throws Error(kIo), Error(kFormat) for wrong JSON, an unknown key (with the nearest known one)
/// or
///         a value of the wrong type, Error(kArgument) for an impossible value
Recipe read_recipe(const std::filesystem::path& path, const RecipeOptions& options = {});
/// The same from parsed JSON. @param path  for messages and relative paths
Recipe recipe_from_json(Json json, const std::filesystem::path& path,
                        const RecipeOptions& options = {});

}  // namespace perceiver::train
