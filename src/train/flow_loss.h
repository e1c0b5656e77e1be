#pragma once

#include <ATen/core/Tensor.h>

namespace perceiver::train {

enum class FlowLossKind {
  kEndPoint,  ///< |d|, the length of the difference
  kL1,        ///< |dx| + |dy|
  kRobust,    ///< (|dx| + |dy| + epsilon)^exponent: large errors pull less (PWC-Net's)
};

struct FlowLossSpec {
  FlowLossKind kind = FlowLossKind::kEndPoint;
  double epsilon = 0.01;  ///< kRobust, pixels
  double exponent = 0.4;  ///< kRobust
  double max_flow = 400;  ///< pixels: longer true flow does not count (RAFT)
  bool occluded = true;   ///< whether pixels that are told to be occluded count
};

/// Mean loss over the points that count; 0, with a gradient of 0, when none does.
/// @param estimate, truth  [B, O, 2] pixels   @param counts  [B, O] bool   @return []
at::Tensor flow_loss(const FlowLossSpec& spec, const at::Tensor& estimate, const at::Tensor& truth,
                     const at::Tensor& counts);

}  // namespace perceiver::train
