#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>

#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/tensor.h"
#include "train/crc32c.h"

namespace perceiver::train {
namespace {

constexpr const char* kModel = "model.";
constexpr const char* kOptimiser = "optimiser.";
constexpr const char* kCheckpointBegin = "checkpoint-";
constexpr const char* kCheckpointEnd = ".safetensors";
constexpr const char* kChecksum = "crc32c";
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

// The steps in a checkpoint's name, or -1.
int64_t steps_of(std::string_view name) {
  if (!name.starts_with(kCheckpointBegin) || !name.ends_with(kCheckpointEnd)) {
    return -1;
  }
  name.remove_prefix(std::string_view(kCheckpointBegin).size());
  name.remove_suffix(std::string_view(kCheckpointEnd).size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() ? step : -1;
}

std::vector<std::pair<std::string, double*>> unmeasured_values(StepRecord& record) {
  return {{"unmeasured.loss", &record.loss},
          {"unmeasured.learning_rate", &record.learning_rate},
          {"unmeasured.gradient_norm", &record.gradient_norm}};
}

RunState read_state(const io::Metadata& data, const std::string& where) {
  RunState state;
  state.recipe = metadata(data, "recipe", where);
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
  if (data.count("unmeasured.loss") != 0) {
    StepRecord& record = state.unmeasured.emplace();
    for (const auto& [key, value] : unmeasured_values(record)) {
      *value = parse<double>(metadata(data, key, where), key, where);
    }
  }
  return state;
}

void require_whole(const ArrayMap& arrays, const io::Metadata& data, const std::string& where) {
  const std::string& written = metadata(data, kChecksum, where);
  const std::string found = checksum(arrays, data);
  if (written != found) {
    throw Error(ErrorCode::kFormat, cat(where, ": damaged: its checksum is ",
                                        printable(written, 20), ", its contents have ", found));
  }
}

}  // namespace

std::string recipe_fingerprint(const Recipe& recipe) {
  Json kept = recipe.source;
  for (const char* key : {"name", "description", "steps", "evaluate_every", "evaluate_limit",
                          "checkpoint_every", "skip_bad", "keep_checkpoints", "keep_best",
                          "best_is_lowest", "save_dtype", "recompute", "input_parallel"}) {
    kept.erase(key);
  }
  kept["schedule"]["steps"] = recipe.schedule.steps;
  return kept.dump();
}

void save_checkpoint(const std::filesystem::path& path, const Trained& trained,
                     const RunState& state) {
  // views: a copy of all this would be the largest memory of a run
  ArrayMap arrays = trained.average.state();
  for (const auto& entry : trained.parameters.entries()) {
    arrays.emplace(kModel + entry.info.name, nn::to_array(entry.tensor));
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
  if (state.unmeasured) {
    StepRecord record = *state.unmeasured;
    for (const auto& [key, value] : unmeasured_values(record)) {
      data.emplace(key, exact(*value));
    }
  }
  data.emplace(kChecksum, checksum(arrays, data));
  io::write_safetensors(path, arrays, data);
}

RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         const Trained& trained) {
  const std::string where = printable(path.string());
  io::Metadata data;
  const ArrayMap arrays = io::read_safetensors(path, &data);
  require_whole(arrays, data, where);
  RunState state = read_state(data, where);
  if (state.recipe != fingerprint) {
    throw Error(ErrorCode::kArgument, cat(where,
                                          " was written by another recipe; resume needs the one "
                                          "in recipe.json beside it"));
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

std::vector<std::filesystem::path> checkpoints(const std::filesystem::path& folder) {
  std::vector<std::pair<int64_t, std::filesystem::path>> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const int64_t step = steps_of(entry.path().filename().string());
    if (step >= 0) {
      found.emplace_back(step, entry.path());
    }
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) {
    paths.push_back(std::move(path));
  }
  return paths;
}

std::filesystem::path newest_checkpoint(const std::filesystem::path& folder) {
  const auto found = checkpoints(folder);
  return found.empty() ? std::filesystem::path() : found.front();
}

std::filesystem::path set_aside(const std::filesystem::path& checkpoint) {
  std::filesystem::path aside = checkpoint;
  aside += ".damaged";
  std::error_code ignored;
  std::filesystem::rename(checkpoint, aside, ignored);
  return aside;
}

std::string checksum(const ArrayMap& arrays, const io::Metadata& metadata) {
  uint32_t sum = 0;
  for (const auto& [key, value] : metadata) {
    if (key != kChecksum) {
      sum = crc32c(cat(key, "=", value, "\n"), sum);
    }
  }
  for (const auto& [name, array] : arrays) {
    sum = crc32c(cat(name, " ", dtype_name(array.dtype()), shape_string(array.shape())), sum);
    sum = crc32c(
        {reinterpret_cast<const char*>(array.bytes()), static_cast<size_t>(array.nbytes())}, sum);
  }
  return std::to_string(sum);
}

void remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep) {
  std::error_code ignored;
  const auto found = checkpoints(folder);
  for (size_t i = static_cast<size_t>(keep); i < found.size(); ++i) {
    std::filesystem::remove(found[i], ignored);
  }
}

void remove_unfinished_files(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".tmp-") || name.starts_with(".best.pending-")) {
      std::filesystem::remove_all(entry.path(), ignored);
    }
  }
}

}  // namespace perceiver::train
