#include "train/average.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::train {
namespace {

constexpr const char* kAverage = "average.";

}  // namespace

AveragedWeights::AveragedWeights(double decay, nn::Parameters& parameters)
    : decay_(decay), parameters_(parameters) {
  if (on()) {
    for (const auto& entry : parameters.entries()) {
      average_.push_back(entry.tensor.detach().clone());
    }
  }
}

void AveragedWeights::update(int64_t steps) {
  const c10::AutoGradMode no_gradients(false);
  const auto t = static_cast<double>(steps);
  const double decay = std::min(decay_, (1 + t) / (10 + t));
  for (size_t i = 0; i < average_.size(); ++i) {
    const auto& entry = parameters_.entries()[i];
    if (entry.info.trainable) {
      average_[i].mul_(decay).add_(entry.tensor, 1 - decay);
    } else {
      average_[i].copy_(entry.tensor);
    }
  }
}

void AveragedWeights::swap() {
  const c10::AutoGradMode no_gradients(false);
  for (size_t i = 0; i < average_.size(); ++i) {
    at::Tensor& tensor = parameters_.entries()[i].tensor;
    const at::Tensor kept = tensor.detach().clone();
    tensor.copy_(average_[i]);
    average_[i].copy_(kept);
  }
}

ArrayMap AveragedWeights::state() const {
  ArrayMap state;
  for (size_t i = 0; i < average_.size(); ++i) {
    state.emplace(kAverage + parameters_.entries()[i].info.name, nn::to_array(average_[i]));
  }
  return state;
}

void AveragedWeights::load_state(const ArrayMap& state, const std::string& where) {
  const c10::AutoGradMode no_gradients(false);
  for (size_t i = 0; i < average_.size(); ++i) {
    const std::string name = kAverage + parameters_.entries()[i].info.name;
    const auto found = state.find(name);
    if (found == state.end() || found->second.shape() != average_[i].sizes().vec()) {
      throw Error(ErrorCode::kFormat,
                  cat(where, ": tensor ", name, " is missing or has another shape than ",
                      shape_string(average_[i].sizes().vec())));
    }
    average_[i].copy_(nn::to_tensor(found->second));
  }
}

}  // namespace perceiver::train
