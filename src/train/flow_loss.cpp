#include "train/flow_loss.h"

#include <algorithm>

#include <ATen/TensorOperators.h>

namespace perceiver::train {
namespace {

// [B, O, 2] -> [B, O]
at::Tensor point_errors(const FlowLossSpec& spec, const at::Tensor& difference) {
  constexpr double kSquareFloor = 1e-12;  // the root has no slope at 0
  switch (spec.kind) {
    case FlowLossKind::kL1:
      return difference.abs().sum(-1);
    case FlowLossKind::kRobust:
      return difference.abs().sum(-1).add(spec.epsilon).pow(spec.exponent);
    case FlowLossKind::kEndPoint:
      break;
  }
  return difference.square().sum(-1).add(kSquareFloor).sqrt();
}

}  // namespace

at::Tensor flow_loss(const FlowLossSpec& spec, const at::Tensor& estimate, const at::Tensor& truth,
                     const at::Tensor& counts) {
  const at::Tensor used = counts.to(estimate.scalar_type());
  const double count = std::max(1.0, used.sum().item<double>());
  return point_errors(spec, estimate - truth).mul(used).sum().div(count);
}

}  // namespace perceiver::train
