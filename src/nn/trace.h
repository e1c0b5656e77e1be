#pragma once

#include <algorithm>
#include <string>

#include "perceiver/nn/model.h"

namespace perceiver::nn {

inline bool wants(const TensorTrace* trace, const std::string& key) {
  if (trace == nullptr || (!trace->attention && key.starts_with("attention."))) {
    return false;
  }
  return trace->only.empty() ||
         std::any_of(trace->only.begin(), trace->only.end(),
                     [&](const std::string& beginning) { return key.starts_with(beginning); });
}

inline void record(TensorTrace* trace, const std::string& key, const at::Tensor& value) {
  if (wants(trace, key)) {
    trace->tensors[key] = value;
  }
}

}  // namespace perceiver::nn
