#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <utility>

#include <nlohmann/json.hpp>

#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::train {
namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimiser = "optimiser.";
constexpr const char* kCheckpointBegin = "checkpoint-";
constexpr const char* kCheckpointEnd = ".safetensors";
constexpr size_t kStepDigits = 9;

const std::string& metadata(const io::Metadata& data, const std::string& key,
                            const std::string& where) {
  const auto found = data.find(key);
  if (found == data.end()) {
    throw Error(ErrorCode::kFormat, cat(where, ": not a training checkpoint (no ", key, ")"));
  }
  return found->second;
}

template <typename Number>
Number parse(const std::string& text, const std::string& key, const std::string& where) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(ErrorCode::kFormat, cat(where, ": ", key, " is '", printable(text, 40), "'"));
  }
  return value;
}

// Shortest text that reads back as the same double.
std::string exact(double value) {
  char text[40];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return std::string(text, result.ptr);
}

// Complete checkpoints by their steps.
std::map<int64_t, std::filesystem::path> checkpoints(const std::filesystem::path& folder) {
  std::map<int64_t, std::filesystem::path> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with(kCheckpointBegin) || !name.ends_with(kCheckpointEnd)) {
      continue;
    }
    name = name.substr(std::string_view(kCheckpointBegin).size());
    name.resize(name.size() - std::string_view(kCheckpointEnd).size());
    int64_t step = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
    if (error == std::errc() && end == name.data() + name.size() && step >= 0) {
      found.emplace(step, entry.path());
    }
  }
  return found;
}

}  // namespace

std::string recipe_fingerprint(const Recipe& recipe) {
  Json kept = recipe.source;
  for (const char* key : {"name", "description", "steps", "evaluate_every", "evaluate_limit",
                          "checkpoint_every", "skip_bad", "keep_checkpoints", "keep_best",
                          "best_is_lowest", "save_dtype", "input_parallel"}) {
    kept.erase(key);
  }
  kept["schedule"]["steps"] = recipe.schedule.steps;
  return kept.dump();
}

void save_checkpoint(const std::filesystem::path& path, const Trained& trained,
                     const RunState& state) {
  ArrayMap arrays = trained.average.state();
  for (auto& [name, array] : trained.parameters.to_arrays()) {
    arrays.emplace(kModel + name, array);
  }
  for (auto& [name, array] : trained.optimiser.state()) {
    arrays.emplace(kOptimiser + name, array);
  }
  io::Metadata data{{"step", std::to_string(state.step)},
                    {"batches", std::to_string(state.batches)},
                    {"mean_loss", exact(state.mean_loss)},
                    {"recipe", state.recipe}};
  if (state.best) {
    data.emplace("best", exact(*state.best));
  }
  io::write_safetensors(path, arrays, data);
}

RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         const Trained& trained) {
  const std::string where = printable(path.string());
  io::Metadata data;
  const ArrayMap arrays = io::read_safetensors(path, &data);
  RunState state;
  state.recipe = metadata(data, "recipe", where);
  if (state.recipe != fingerprint) {
    throw Error(ErrorCode::kFormat, cat(where,
                                        " was written by another recipe; resume needs the one "
                                        "in recipe.json beside it"));
  }
  state.step = parse<int64_t>(metadata(data, "step", where), "step", where);
  if (state.step < 0) {
    throw Error(ErrorCode::kFormat, cat(where, ": step is ", state.step));
  }
  state.batches = parse<int64_t>(metadata(data, "batches", where), "batches", where);
  if (state.batches < 0) {
    throw Error(ErrorCode::kFormat, cat(where, ": batches is ", state.batches));
  }
  state.mean_loss = parse<double>(metadata(data, "mean_loss", where), "mean_loss", where);
  if (data.count("best") != 0) {
    state.best = parse<double>(data.at("best"), "best", where);
  }
  const c10::AutoGradMode no_gradients(false);
  for (auto& entry : trained.parameters.entries()) {
    const auto found = arrays.find(kModel + entry.info.name);
    if (found == arrays.end() || found->second.shape() != entry.info.shape) {
      throw Error(ErrorCode::kFormat,
                  cat(where, ": tensor ", kModel, entry.info.name,
                      " is missing or has another shape than ", shape_string(entry.info.shape)));
    }
    entry.tensor.copy_(nn::to_tensor(found->second));
  }
  ArrayMap optimiser_state;
  for (const auto& [name, array] : arrays) {
    if (name.starts_with(kOptimiser)) {
      optimiser_state.emplace(name.substr(std::string_view(kOptimiser).size()), array);
    }
  }
  trained.optimiser.load_state(optimiser_state, where);
  trained.average.load_state(arrays, where);
  return state;
}

std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step) {
  std::string digits = std::to_string(step);
  digits.insert(0, kStepDigits - std::min(kStepDigits, digits.size()), '0');
  return folder / cat(kCheckpointBegin, digits, kCheckpointEnd);
}

std::filesystem::path newest_checkpoint(const std::filesystem::path& folder) {
  const auto found = checkpoints(folder);
  return found.empty() ? std::filesystem::path() : found.rbegin()->second;
}

void remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep) {
  std::error_code ignored;
  auto found = checkpoints(folder);
  while (std::cmp_greater(found.size(), keep)) {
    std::filesystem::remove(found.begin()->second, ignored);
    found.erase(found.begin());
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".tmp-") && name.find(kCheckpointBegin) != std::string::npos) {
      std::filesystem::remove(entry.path(), ignored);
    }
  }
}

}  // namespace perceiver::train
