#include "train/share_start.h"

#include <nlohmann/json.hpp>

#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

// FNV-1a. Equal texts have equal numbers; different ones practically never.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  }
  return hash;
}

void check_recipe(distributed::Group& group, const Recipe& recipe) {
  const auto own = static_cast<int64_t>(hash_of(recipe.source.dump()) >> 1);
  const at::Tensor all = group.gather(at::full({1}, own, at::kLong));
  const int64_t* values = all.const_data_ptr<int64_t>();
  for (int64_t rank = 1; rank < group.size(); ++rank) {
    if (values[rank] != values[0]) {
      throw Error(ErrorCode::kArgument,
                  cat("rank ", rank,
                      " runs another recipe than rank 0 (batch size, model, data, "
                      "seed, ... or --set differ)"));
    }
  }
}

}  // namespace

void share_start(distributed::Group& group, const Recipe& recipe, const Trained& trained,
                 RunState& state) {
  if (group.size() == 1) {
    return;
  }
  const c10::AutoGradMode no_gradients(false);
  check_recipe(group, recipe);
  std::vector<at::Tensor> tensors = trained.optimiser.tensors();
  for (auto& entry : trained.parameters.entries()) {
    tensors.push_back(entry.tensor.detach());
  }
  tensors.insert(tensors.end(), trained.average.tensors().begin(), trained.average.tensors().end());
  at::Tensor numbers = at::full({4}, state.mean_loss, at::kDouble);
  auto* values = numbers.mutable_data_ptr<double>();
  values[0] = static_cast<double>(state.step);
  values[1] = static_cast<double>(state.batches);
  values[2] = static_cast<double>(trained.optimiser.steps());
  tensors.push_back(numbers);
  group.broadcast(tensors);
  state.step = static_cast<int64_t>(values[0]);
  state.batches = static_cast<int64_t>(values[1]);
  trained.optimiser.set_steps(static_cast<int64_t>(values[2]));
  state.mean_loss = values[3];
}

}  // namespace perceiver::train
