#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/engine.h"

// A model folder: what the model is, its weights, and how its inputs are prepared.
//   config.json               transformers' layout, when transformers has a class for the model
//   spec.json                 our layout, for every other model (weights then carry our names)
//   model.safetensors         or pytorch_model.bin, or shards with an index
//   preprocessor_config.json  images only

namespace perceiver::tasks {

struct Bundle {
  ModelSpec spec;
  ArrayMap weights;                  ///< our names
  std::optional<Json> preprocessor;  ///< preprocessor_config.json
  std::filesystem::path path;        ///< where it was read
};

/// Reads a folder, or a Haiku pickle file (then the DeepMind form of the recognised released model).
/// @throws Error(kIo), Error(kFormat): missing, surplus, misshapen, non-finite tensors are named
Bundle load_bundle(const std::filesystem::path& path);
/// The description alone, without reading weights.
ModelSpec load_spec(const std::filesystem::path& path);

/// Writes a folder: transformers' layout where it can express the spec, ours otherwise.
/// Every file appears whole or not at all. @throws Error(kIo)
void save_bundle(const Bundle& bundle, const std::filesystem::path& folder);

struct EngineChoice {
  std::string engine = "auto";     ///< auto | nn
  std::string precision = "fp32";  ///< fp32 | fp64 | bf16
  std::string device = "cpu";
  int num_threads = 0;
};
/// @throws Error(kArgument) for an unknown or absent engine
std::unique_ptr<Engine> make_engine(const Bundle& bundle, const EngineChoice& choice = {});

}  // namespace perceiver::tasks
