#pragma once

#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/base/array.h"
#include "perceiver/spec/parameters.h"

namespace perceiver::nn {

/// A model's tensors by name, in the order of parameter_table(). Plain tensors instead of
/// torch::nn::Module: the module headers cost half a minute in every file that sees them, and the
/// spec already says which tensors exist.
class Parameters {
 public:
  struct Entry {
    ParameterInfo info;
    at::Tensor tensor;  ///< a leaf; requires grad if info.trainable and gradients were enabled
  };

  /// @throws Error(kInternal) if the name is not in the table
  const at::Tensor& at(const std::string& name) const;
  bool contains(const std::string& name) const { return index_.count(name) != 0; }
  std::vector<Entry>& entries() { return entries_; }
  const std::vector<Entry>& entries() const { return entries_; }
  void add(ParameterInfo info, at::Tensor tensor);

  /// Moves tensors [n_i, ...] into one memory, behind each other in this order. Values stay; who
  /// holds a tensor already keeps the one before.
  /// @throws Error(kInternal) if a name is not in the table
  void lay_together(const std::vector<std::string>& names);

  /// Switches gradients on or off for all trainable tensors.
  void requires_grad(bool on);
  /// Copies of all tensors as float32 (integers as they are).
  ArrayMap to_arrays() const;

 private:
  std::vector<Entry> entries_;
  std::map<std::string, size_t> index_;
};

}  // namespace perceiver::nn
