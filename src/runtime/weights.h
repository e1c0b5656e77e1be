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
  /// Float32, converted on first use where the checkpoint holds another float type (integers as
  /// they are). @throws Error(kInternal) if the name is not in the table, or was released
  const Array& at(const std::string& name) const;
  const float* data(const std::string& name) const { return at(name).data<float>(); }
  /// "<prefix>.weight" [out, in(, 1, 1)] and "<prefix>.bias", which may be absent. A copy.
  Affine affine(const std::string& prefix) const;
  /// A tensor that is not read again: gives back its mapped pages and drops our share of it.
  void release(const std::string& name);
  /// Every tensor whose name starts with "<prefix>.".
  void release_all(const std::string& prefix);

 private:
  const Array& original(const std::string& name) const;

  ArrayMap arrays_;
  mutable ArrayMap converted_;  ///< float32 forms of tensors of other types, made when asked for
};

}  // namespace perceiver::runtime
