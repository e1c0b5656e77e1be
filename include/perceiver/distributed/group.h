#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace perceiver::distributed {

/// A sum that runs while its caller does something else.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Returns when the sum is in its tensor. @throws Error(kIo) as Group's methods do
  virtual void wait() = 0;
};

/// The processes that train one model together. Every member calls the same methods in the same
/// order. Sums run in one fixed order, so all members get the same bits.
///
/// Every method that waits for others throws Error(kIo) naming this rank, the operation and, as far
/// as it can be told, the rank that is gone and what it said last.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Among the members on this machine, from 0; the number of its GPU.
  virtual int local_rank() const = 0;
  /// Members on this machine, this one included; 0 = not known.
  virtual int local_size() const = 0;
  /// One line for people: "rank 0 of 4, Gloo through 10.0.0.7".
  virtual std::string description() const = 0;

  // Tensors may lie on GPUs, one per member: NCCL carries them, or Gloo where it was not built in.

  /// Replaces every value by its sum over all members.
  virtual void sum(std::vector<double>& values) = 0;
  /// The same for tensors, in place; contiguous, float32 or float64.
  virtual void sum(const std::vector<at::Tensor>& tensors) = 0;
  /// The same, without waiting. `tensor` must not be touched before wait().
  virtual std::unique_ptr<Pending> start_sum(const at::Tensor& tensor) = 0;
  /// Everybody's tensor, stacked by rank. @param tensor [...], the same shape everywhere
  /// @return [size, ...]
  virtual at::Tensor gather(const at::Tensor& tensor) = 0;
  /// Everybody gets member 0's values.
  virtual void broadcast(const std::vector<at::Tensor>& tensors) = 0;
  /// Returns when all members have called it, however long they take: here a slow member is told
  /// from a dead one. The other methods wait for the group's timeout at most, so what takes members
  /// unequally long (reading data, measuring, writing files) ends with a barrier.
  /// @param what  of what it is the end, for the error message
  virtual void barrier(const std::string& what) = 0;
  /// Tells the others, before this process ends, why it does. Never throws.
  virtual void leave(const std::string& problem) noexcept = 0;
};

/// This process alone: every method returns at once.
std::unique_ptr<Group> alone();

}  // namespace perceiver::distributed
