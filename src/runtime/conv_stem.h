#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/pages.h"
#include "runtime/weights.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

/// The convolutional stem: per layer 7x7/2 convolution, batch norm (running statistics, folded into
/// the convolution), ReLU, 3x3/2 max-pool; pictures and frames one by one. Weights are packed at
/// construction.
class ConvStem {
 public:
  ConvStem(const Weights& weights, const InputSpec& input, ConvPadding padding);
  ~ConvStem();

  /// @param raw  [B, H, W, C] or [B, T, H, W, C], any dtype with a float form
  /// @return     F32, channels last on the downsampled grid; in the memory of the last call where
  ///             nobody holds its result any more
  /// @throws Error(kShape) if a picture is too small for an unpadded pool
  Array apply(const Array& raw, Workspace& workspace) const;

 private:
  class Layer;
  std::string name_;
  ConvPadding padding_;
  std::vector<std::unique_ptr<Layer>> layers_;
  mutable std::shared_ptr<Pages> result_;
};

}  // namespace perceiver::runtime
