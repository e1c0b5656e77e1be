#pragma once

#include <chrono>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace perceiver::distributed {

/// NCCL, for tensors on GPUs, one GPU per process; null in a build without it, where Gloo carries
/// them through the host's memory. The members meet when the first of them sends something.
/// @param timeout  after which NCCL's own watch ends a process that still waits; longer than its
///                 callers wait, who have more to say
c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                            int size, std::chrono::milliseconds timeout);

}  // namespace perceiver::distributed
