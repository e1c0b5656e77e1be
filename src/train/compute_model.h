#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/nn/model.h"
#include "train/task.h"

namespace perceiver::train {

/// What a step computes with: the model itself, or its twin in a narrower type. The twin's weights
/// are the model's own (the masters, float32) rounded; its gradients are added to the masters', and
/// so is what micro-batches add up. LayerNorm's and softmax's sums are float32 in either; batch
/// norm is the master's own.
class ComputeModel {
 public:
  /// @param masters  outlives this
  /// @param dtype    of the arithmetic: kFloat = `masters` itself, kBFloat16
  ComputeModel(nn::Model& masters, at::ScalarType dtype);

  /// In training mode. @return outputs in the masters' type, on their device
  nn::TensorMap forward(const Batch& batch);
  /// Adds what the last backward pass left to the masters' gradients.
  void collect_gradients();
  /// To be called when the masters have changed.
  void refresh();

 private:
  nn::Model& masters_;
  std::unique_ptr<nn::Model> twin_;  ///< null: the masters compute
  std::vector<size_t> rounded_;      ///< entries that the twin holds a rounding of
};

/// The batch with everything on `device`.
Batch on_device(const Batch& batch, const at::Device& device);

}  // namespace perceiver::train
