#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver::tasks {

/// One class and how sure the model is of it.
struct Ranked {
  int64_t index = 0;
  std::string label;       ///< from the spec, or "class <index>" where it names none
  double probability = 0;  ///< softmax over all classes
  double logit = 0;
};

/// The `top` classes of one row of logits, surest first; ties by index.
/// @throws Error(kFormat) when a logit is not a number
std::vector<Ranked> rank_classes(const float* logits, int64_t classes, int64_t top,
                                 const std::vector<std::string>& labels);

/// Softmax in double. @throws Error(kFormat) when a logit is not a number
std::vector<double> softmax(const float* logits, int64_t classes);

}  // namespace perceiver::tasks
