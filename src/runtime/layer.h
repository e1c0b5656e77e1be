#pragma once

#include <cstdint>
#include <string>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/linear.h"
#include "runtime/matrix.h"
#include "runtime/weights.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

/// MLP half of an attention module: x + W2 act(W1 LN(x) + b1) + b2, norm folded into W1.
class Mlp {
 public:
  Mlp() = default;
  Mlp(const Weights& weights, const std::string& prefix, const Compatibility& compatibility,
      Precision precision, ProductOrder order = ProductOrder::kPlain);
  /// In place on x [rows, channels].
  void apply(Matrix x, Workspace& workspace) const;

 private:
  Linear in_, out_;
  Activation activation_ = Activation::kGeluErf;
  float eps_ = 1e-5F;
};

/// One self-attend of the process stack: pre-norm attention and MLP, all in place.
class SelfAttendLayer {
 public:
  SelfAttendLayer() = default;
  /// @param prefix  e.g. "encoder.block.0.3"; its tensors are released once packed
  SelfAttendLayer(Weights& weights, const std::string& prefix, const AttentionShape& shape,
                  const Compatibility& compatibility, Precision precision, ProductOrder order);
  /// Whether rows of `latents` are best an odd number of cache lines apart, and not dense.
  bool wants_gaps() const { return output_.order() == ProductOrder::kSeven; }
  /// @param latents [batch * N, D] in place
  /// @param map     [batch, H, N, N] receives the softmax result when not null
  void apply(Matrix latents, int64_t batch, Workspace& workspace, float* map = nullptr) const;

 private:
  AttentionShape shape_;
  float eps_ = 1e-5F;
  Precision precision_ = Precision::kF32;
  Linear query_key_value_, output_;
  Mlp mlp_;
};

}  // namespace perceiver::runtime
