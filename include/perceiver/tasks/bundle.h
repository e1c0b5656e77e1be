#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/engine.h"

// A model folder: what the model is, its weights, and how its inputs are prepared.
//   config.json               transformers' layout, when transformers has a class for the model
//   spec.json                 our layout, for every other model (weights then carry our names)
//   model.safetensors         or pytorch_model.bin, or shards with an index
//   preprocessor_config.json  how raw pictures (or text) become inputs; optional

namespace perceiver::tasks {

struct Bundle {
  ModelSpec spec;
  ArrayMap weights;                  ///< our names
  std::optional<Json> preprocessor;  ///< preprocessor_config.json
  std::filesystem::path path;        ///< where it was read
};

/// Reads a folder, or a Haiku pickle file (then the DeepMind form of the recognised released
/// model).
/// @throws Error(kIo), Error(kFormat): missing, surplus, misshapen, non-finite tensors are named
Bundle load_bundle(const std::filesystem::path& path);
/// The description alone, without reading weights.
ModelSpec load_spec(const std::filesystem::path& path);

enum class Layout {
  kAuto,          ///< transformers' where it can express the spec, ours otherwise
  kOurs,          ///< spec.json
  kTransformers,  ///< config.json; an error where transformers has no class for the spec
};

/// Writes a folder: transformers' layout where it can express the spec, ours otherwise. A new
/// folder appears complete or not at all; in an existing one every file is replaced whole, its
/// description last. @throws Error(kIo); Error(kUnsupported) for Layout::kTransformers where it has
/// no class
void save_bundle(const Bundle& bundle, const std::filesystem::path& folder,
                 Layout layout = Layout::kAuto);

/// What a run is to use. Values are checked by make_engine().
struct EngineChoice {
  /// runtime: fast, on the CPU. nn: LibTorch, also fp64 and CUDA; absent from programs built
  /// without it. auto: runtime where it can, else nn.
  std::string engine = "auto";
  std::string precision = "fp32";  ///< fp32 | fp64 | bf16
  std::string device = "cpu";
  std::string plan = "auto";  ///< order of the attentions: auto | textbook | absorbed | factored
  int num_threads = 0;        ///< 0 = all cores
  int64_t memory_budget = 0;  ///< bytes of working memory; 0 = the engine chooses
};
/// @throws Error(kArgument) for an unknown value, Error(kUnsupported) for an engine that this
/// program was built without
std::unique_ptr<Engine> make_engine(const Bundle& bundle, const EngineChoice& choice = {});
/// What EngineChoice::engine may be in this program: "auto, runtime, nn".
std::string engine_names();

/// A model ready to answer. The bundle's weights are dropped: the engine holds them.
struct Model {
  Bundle bundle;
  std::unique_ptr<Engine> engine;
  double load_seconds = 0;
};
/// load_bundle and make_engine.
Model open_model(const std::filesystem::path& path, const EngineChoice& choice = {});

/// Whether an answer could be written to `path`, found out before long work: its folder exists and
/// takes new files, and it is no folder itself. @throws Error(kIo) naming `path`
void require_writable(const std::filesystem::path& path);
/// The same for a model folder that may not exist yet; its parent must.
void require_writable_folder(const std::filesystem::path& path);

/// Throughput of large float32 matrix products, in FLOP/s: the yardstick for a run's.
double measure_gemm_peak(int num_threads);

}  // namespace perceiver::tasks
