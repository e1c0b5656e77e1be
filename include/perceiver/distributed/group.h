#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace perceiver::distributed {

/// The processes that train one model together. Every member calls the same methods in the same
/// order. Sums run in one fixed order, so all members get the same bits.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Replaces every value by its sum over all members.
  virtual void sum(std::vector<double>& values) = 0;
  /// The same for float32 tensors, in place.
  virtual void sum(const std::vector<at::Tensor>& tensors) = 0;
  /// Everybody gets member 0's values.
  virtual void broadcast(const std::vector<at::Tensor>& tensors) = 0;
  /// Returns when all members have called it.
  virtual void barrier() = 0;
};

/// This process alone: every method returns at once.
std::unique_ptr<Group> alone();

}  // namespace perceiver::distributed
