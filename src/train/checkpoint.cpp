#include "train/checkpoint.h"

#include <charconv>
#include <limits>

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
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
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

}  // namespace

std::string recipe_fingerprint(const Recipe& recipe) {
  Json kept = recipe.source;
  for (const char* key : {"name", "description", "steps", "evaluate_every", "evaluate_limit",
                          "checkpoint_every", "save_dtype"}) {
    kept.erase(key);
  }
  kept["schedule"]["steps"] = recipe.schedule.steps;
  return kept.dump();
}

void save_checkpoint(const std::filesystem::path& path, const nn::Parameters& parameters,
                     const Optimiser& optimiser, const RunState& state) {
  ArrayMap arrays;
  for (auto& [name, array] : parameters.to_arrays()) {
    arrays.emplace(kModel + name, array);
  }
  for (auto& [name, array] : optimiser.state()) {
    arrays.emplace(kOptimiser + name, array);
  }
  io::write_safetensors(path, arrays,
                        {{"step", std::to_string(state.step)},
                         {"mean_loss", exact(state.mean_loss)},
                         {"recipe", state.recipe}});
}

RunState load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                         nn::Parameters& parameters, Optimiser& optimiser) {
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
  state.mean_loss = parse<double>(metadata(data, "mean_loss", where), "mean_loss", where);
  const c10::AutoGradMode no_gradients(false);
  for (auto& entry : parameters.entries()) {
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
  optimiser.load_state(optimiser_state, where);
  return state;
}

}  // namespace perceiver::train
