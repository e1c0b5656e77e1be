#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/base/array.h"
#include "perceiver/nn/parameters.h"
#include "perceiver/train/recipe.h"

namespace perceiver::train {

/// Whether weight decay applies: not to biases nor to anything of a LayerNorm or batch norm. Tables
/// of latents, positions and embeddings are decayed (DeepMind's mask).
bool is_decayed(const std::string& name);

/// Scales all gradients by one factor so that their common norm is at most `max_norm` (0 = leave
/// them). @return the norm before
double clip_gradients(nn::Parameters& parameters, double max_norm);

/// Drops every gradient.
void clear_gradients(nn::Parameters& parameters);

/// Adam's moments, and the two ways from them to an update; or plain momentum:
///   AdamW  p <- p (1 - lr wd) - lr m^ / (sqrt(v^) + eps)                      (Loshchilov, Hutter)
///   LAMB   u = m^ / (sqrt(v^) + eps) + wd p;   p <- p - lr r u,   r = |p| / |u| per tensor, 1 if
///          either norm is 0                                       (You et al.; DeepMind's chain)
///   SGD    g <- g + wd p;  b <- mu b + g (b starts as g);  p <- p - lr (b, or g + mu b: Nesterov)
/// where m^ and v^ are corrected for their start at 0 and wd is 0 where is_decayed() says no.
/// Gradients are to be clipped before; parameters without one are left alone.
class Optimiser {
 public:
  /// Keeps a reference to `parameters`; their tensors are updated in place.
  Optimiser(const OptimiserSpec& spec, nn::Parameters& parameters);

  /// @param learning_rate  of this step, schedule applied
  void step(double learning_rate);
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// Gives up the moments: after the last step.
  void release() { slots_.clear(); }
  /// The moments themselves, for processes to share them.
  std::vector<at::Tensor> tensors() const;

  /// Moments as "first.<parameter>" and "second.<parameter>", and "steps"; on the CPU views of
  /// what the next step changes.
  ArrayMap state() const;
  /// @throws Error(kFormat) naming a missing or misshapen tensor
  void load_state(const ArrayMap& state, const std::string& where);

 private:
  struct Slot {
    size_t entry = 0;  // index in parameters_.entries()
    bool decayed = false;
    at::Tensor first, second;
  };
  void step_adamw(double learning_rate);
  void update_lamb(Slot& slot, double learning_rate);
  void update_sgd(Slot& slot, double learning_rate);

  OptimiserSpec spec_;
  nn::Parameters& parameters_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
};

}  // namespace perceiver::train
