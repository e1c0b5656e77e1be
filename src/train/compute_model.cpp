#include "train/compute_model.h"

#include <c10/core/GradMode.h>

namespace perceiver::train {
namespace {

void move_to(nn::TensorMap& tensors, const at::Device& device) {
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(device);
  }
}

// Running averages would lose their last bits; LibTorch computes batch norm of narrow values with
// wide parameters.
bool stays_wide(const nn::Parameters::Entry& entry) {
  return entry.info.name.find(".batch_norm.") != std::string::npos;
}

}  // namespace

ComputeModel::ComputeModel(nn::Model& masters, at::ScalarType dtype) : masters_(masters) {
  if (dtype == at::kFloat) {
    return;
  }
  nn::ModelOptions options = masters.options();
  options.dtype = dtype;
  twin_ = std::make_unique<nn::Model>(masters.spec(), masters.parameters().to_arrays(), options);
  twin_->parameters().requires_grad(true);
  for (size_t i = 0; i < masters.parameters().entries().size(); ++i) {
    nn::Parameters::Entry& own = twin_->parameters().entries()[i];
    if (stays_wide(own)) {
      own.tensor = masters.parameters().entries()[i].tensor;
    } else {
      rounded_.push_back(i);
    }
  }
}

nn::TensorMap ComputeModel::forward(const Batch& batch) {
  nn::Model& model = twin_ ? *twin_ : masters_;
  model.set_training(true);
  nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
  if (twin_) {
    for (auto& [name, output] : outputs) {
      output = output.to(at::kFloat);
    }
  }
  return outputs;
}

void ComputeModel::collect_gradients() {
  if (!twin_) {
    return;
  }
  const c10::AutoGradMode no_gradients(false);
  for (const size_t i : rounded_) {
    at::Tensor& gradient = twin_->parameters().entries()[i].tensor.mutable_grad();
    at::Tensor& sum = masters_.parameters().entries()[i].tensor.mutable_grad();
    if (gradient.defined()) {
      sum = sum.defined() ? sum.add_(gradient) : gradient.to(at::kFloat);
      gradient.reset();
    }
  }
}

void ComputeModel::refresh() {
  const c10::AutoGradMode no_gradients(false);
  for (const size_t i : rounded_) {
    twin_->parameters().entries()[i].tensor.copy_(masters_.parameters().entries()[i].tensor);
  }
}

Batch on_device(const Batch& batch, const at::Device& device) {
  Batch moved = batch;
  if (device.is_cpu()) {
    return moved;
  }
  move_to(moved.inputs.arrays, device);
  move_to(moved.inputs.masks, device);
  move_to(moved.inputs.replaced, device);
  move_to(moved.request.queries, device);
  move_to(moved.request.query_masks, device);
  move_to(moved.targets, device);
  if (moved.mask.defined()) {
    moved.mask = moved.mask.to(device);
  }
  return moved;
}

}  // namespace perceiver::train
