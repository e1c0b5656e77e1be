#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/base/array.h"
#include "perceiver/nn/parameters.h"

namespace perceiver::train {

/// Exponential moving average of the weights: average <- d average + (1 - d) weight after each
/// step, with d = min(decay, (1 + t) / (10 + t)) after t steps, so that the random start is soon
/// forgotten. Tensors that are not trained (batch norm statistics) are copied.
class AveragedWeights {
 public:
  /// Starts as a copy. @param decay  0 = off: then nothing is kept and swap() does nothing
  AveragedWeights(double decay, nn::Parameters& parameters);
  bool on() const { return decay_ > 0; }
  /// @param steps  finished, this one included
  void update(int64_t steps);
  /// Exchanges the model's weights with the average; a second call exchanges back.
  void swap();
  const std::vector<at::Tensor>& tensors() const { return average_; }
  /// "average.<parameter>"; on the CPU views of what the next update changes.
  ArrayMap state() const;
  /// @throws Error(kFormat) naming a missing or misshapen tensor
  void load_state(const ArrayMap& state, const std::string& where);

  /// The model holds the average while this lives.
  class Scope {
   public:
    explicit Scope(AveragedWeights& average) : average_(average) { average_.swap(); }
    ~Scope() { average_.swap(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    AveragedWeights& average_;
  };

 private:
  double decay_;
  nn::Parameters& parameters_;
  std::vector<at::Tensor> average_;
};

}  // namespace perceiver::train
