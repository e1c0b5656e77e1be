#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/linear.h"

namespace perceiver::runtime {

/// A model's tensors by our names, as float32. Views the caller's memory (often a mapped file)
/// where the dtype allows. What was packed can be dropped: `release` tells the system that a mapped
/// page is not needed again.
class Weights {
 public:
  /// @throws Error(kFormat) as check_parameters() does
  Weights(const ModelSpec& spec, const ArrayMap& arrays);

  bool contains(const std::string& name) const;
  /// @throws Error(kInternal) if the name is not in the table
  const Array& at(const std::string& name) const;
  const float* data(const std::string& name) const { return at(name).data<float>(); }
  /// "<prefix>.weight" [out, in(, 1, 1)] and "<prefix>.bias".
  Affine affine(const std::string& prefix) const;
  void release(const std::string& name);

 private:
  ArrayMap arrays_;
};

}  // namespace perceiver::runtime
