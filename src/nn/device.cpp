#include "perceiver/nn/device.h"

#include <optional>

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"

namespace perceiver::nn {
namespace {

std::optional<at::Device> device_called(const std::string& name) {
  try {
    return at::Device(name);
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

}  // namespace

at::Device parse_device(const std::string& name, int local_rank) {
  const std::optional<at::Device> called = device_called(name);
  if (!called || (!called->is_cpu() && !called->is_cuda())) {
    throw Error(ErrorCode::kArgument,
                cat("unknown device ", printable(name), ": cpu, cuda or cuda:N"));
  }
  const at::Device device = *called;
  if (device.is_cpu()) {
    return device;
  }
  if (!at::hasCUDA()) {
    throw Error(ErrorCode::kArgument, cat("device ", printable(name),
                                          " was asked for, but no CUDA GPU can be used here"));
  }
  const int gpu = device.has_index() ? device.index() : local_rank;
  const int count = at::detail::getCUDAHooks().getNumGPUs();
  if (gpu >= count) {
    throw Error(ErrorCode::kArgument, cat("device cuda:", gpu, " was asked for, but there ",
                                          count == 1 ? "is 1 GPU" : cat("are ", count, " GPUs")));
  }
  return {at::kCUDA, static_cast<c10::DeviceIndex>(gpu)};
}

bool has_native_bfloat16(const at::Device& device) {
  return device.is_cuda() || (device.is_cpu() && kernels::has_native_bfloat16());
}

}  // namespace perceiver::nn
