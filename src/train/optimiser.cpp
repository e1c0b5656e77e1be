#include "train/optimiser.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::train {
namespace {

constexpr const char* kFirst = "first.";
constexpr const char* kSecond = "second.";
constexpr const char* kSteps = "steps";

void load(at::Tensor& into, const ArrayMap& state, const std::string& name,
          const std::string& where) {
  const auto found = state.find(name);
  if (found == state.end()) {
    throw Error(ErrorCode::kFormat, cat(where, ": optimiser tensor ", name, " is missing"));
  }
  if (found->second.shape() != into.sizes().vec()) {
    throw Error(ErrorCode::kFormat, cat(where, ": optimiser tensor ", name, " has shape ",
                                        shape_string(found->second.shape()), ", needs ",
                                        shape_string(into.sizes().vec())));
  }
  into.copy_(nn::to_tensor(found->second));
}

}  // namespace

bool is_decayed(const std::string& name) {
  return !name.ends_with(".bias") && name.find(".norm_") == std::string::npos &&
         name.find(".batch_norm.") == std::string::npos;
}

double clip_gradients(nn::Parameters& parameters, double max_norm) {
  const c10::AutoGradMode no_gradients(false);
  std::vector<at::Tensor> norms;
  for (const auto& entry : parameters.entries()) {
    if (entry.tensor.grad().defined()) {
      norms.push_back(entry.tensor.grad().norm());
    }
  }
  // read all at once: a GPU is waited for once, not for every tensor
  const double total = norms.empty() ? 0 : at::stack(norms).to(at::kDouble).norm().item<double>();
  if (max_norm > 0 && total > max_norm) {
    for (auto& entry : parameters.entries()) {
      if (entry.tensor.grad().defined()) {
        entry.tensor.mutable_grad().mul_(max_norm / total);
      }
    }
  }
  return total;
}

void clear_gradients(nn::Parameters& parameters) {
  for (auto& entry : parameters.entries()) {
    entry.tensor.mutable_grad().reset();
  }
}

Optimiser::Optimiser(const OptimiserSpec& spec, nn::Parameters& parameters)
    : spec_(spec), parameters_(parameters) {
  const c10::AutoGradMode no_gradients(false);
  for (size_t i = 0; i < parameters.entries().size(); ++i) {
    const auto& entry = parameters.entries()[i];
    if (entry.info.trainable) {
      slots_.push_back({i, is_decayed(entry.info.name), at::zeros_like(entry.tensor),
                        at::zeros_like(entry.tensor)});
    }
  }
}

void Optimiser::step(double learning_rate) {
  const c10::AutoGradMode no_gradients(false);
  ++steps_;
  if (spec_.kind == OptimiserKind::kAdamW) {
    step_adamw(learning_rate);
    return;
  }
  for (Slot& slot : slots_) {
    if (parameters_.entries()[slot.entry].tensor.grad().defined()) {
      spec_.kind == OptimiserKind::kSgd ? update_sgd(slot, learning_rate)
                                        : update_lamb(slot, learning_rate);
    }
  }
}

// LibTorch's own: one pass over all tensors instead of several over each.
void Optimiser::step_adamw(double learning_rate) {
  for (const bool decayed : {false, true}) {
    std::vector<at::Tensor> parameters, gradients, first, second;
    for (const Slot& slot : slots_) {
      const at::Tensor& parameter = parameters_.entries()[slot.entry].tensor;
      if (slot.decayed == decayed && parameter.grad().defined()) {
        parameters.push_back(parameter);
        gradients.push_back(parameter.grad().contiguous());
        first.push_back(slot.first);
        second.push_back(slot.second);
      }
    }
    if (parameters.empty()) {
      continue;
    }
    const at::Tensor count = at::full({}, steps_, parameters[0].options().dtype(at::kFloat));
    at::_fused_adamw_(parameters, gradients, first, second, /*max_exp_avg_sqs=*/{},
                      std::vector<at::Tensor>(parameters.size(), count), learning_rate, spec_.beta1,
                      spec_.beta2, decayed ? spec_.weight_decay : 0, spec_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

void Optimiser::update_sgd(Slot& slot, double learning_rate) {
  at::Tensor& parameter = parameters_.entries()[slot.entry].tensor;
  at::Tensor gradient = parameter.grad();
  if (slot.decayed && spec_.weight_decay > 0) {
    gradient = gradient.add(parameter, spec_.weight_decay);
  }
  slot.first.mul_(steps_ == 1 ? 0 : spec_.momentum).add_(gradient);
  parameter.add_(spec_.nesterov ? gradient.add(slot.first, spec_.momentum) : slot.first,
                 -learning_rate);
}

void Optimiser::update_lamb(Slot& slot, double learning_rate) {
  at::Tensor& parameter = parameters_.entries()[slot.entry].tensor;
  const at::Tensor& gradient = parameter.grad();
  slot.first.mul_(spec_.beta1).add_(gradient, 1 - spec_.beta1);
  slot.second.mul_(spec_.beta2).addcmul_(gradient, gradient, 1 - spec_.beta2);
  const auto count = static_cast<double>(steps_);
  const double first_correction = 1 - std::pow(spec_.beta1, count);
  const double second_correction = 1 - std::pow(spec_.beta2, count);
  at::Tensor scale = slot.second.sqrt().div_(std::sqrt(second_correction)).add_(spec_.epsilon);
  const double decay = slot.decayed ? spec_.weight_decay : 0;
  at::Tensor change = slot.first.div(first_correction).div_(scale);
  if (decay > 0) {
    change.add_(parameter, decay);
  }
  // stays where the tensors are: a GPU need not be waited for
  const at::Tensor size = parameter.norm();
  const at::Tensor change_size = change.norm();
  const at::Tensor trust =
      at::where((size > 0).logical_and(change_size > 0), size / change_size, 1);
  parameter.sub_(change.mul_(trust * learning_rate));
}

std::vector<at::Tensor> Optimiser::tensors() const {
  std::vector<at::Tensor> tensors;
  for (const Slot& slot : slots_) {
    tensors.push_back(slot.first);
    tensors.push_back(slot.second);
  }
  return tensors;
}

ArrayMap Optimiser::state() const {
  ArrayMap state;
  for (const Slot& slot : slots_) {
    const std::string& name = parameters_.entries()[slot.entry].info.name;
    state.emplace(kFirst + name, nn::to_array(slot.first));
    state.emplace(kSecond + name, nn::to_array(slot.second));
  }
  state.emplace(kSteps, Array::of<int64_t>({1}, {steps_}));
  return state;
}

void Optimiser::load_state(const ArrayMap& state, const std::string& where) {
  const c10::AutoGradMode no_gradients(false);
  for (Slot& slot : slots_) {
    const std::string& name = parameters_.entries()[slot.entry].info.name;
    load(slot.first, state, kFirst + name, where);
    load(slot.second, state, kSecond + name, where);
  }
  const auto found = state.find(kSteps);
  if (found == state.end() || found->second.numel() != 1 || found->second.dtype() != DType::kI64) {
    throw Error(ErrorCode::kFormat, cat(where, ": optimiser tensor ", kSteps, " is missing"));
  }
  steps_ = found->second.data<int64_t>()[0];
}

}  // namespace perceiver::train
