#include "perceiver/nn/device.h"

#include <ATen/Context.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"

namespace perceiver::nn {

at::Device parse_device(const std::string& name) {
  try {
    at::Device device(name);
    if (device.is_cuda() && !at::hasCUDA()) {
      throw Error(ErrorCode::kArgument, cat("device ", printable(name),
                                            " was asked for, but no CUDA GPU can be used here"));
    }
    return device;
  } catch (const c10::Error&) {
    throw Error(ErrorCode::kArgument,
                cat("unknown device ", printable(name), ": cpu, cuda or cuda:N"));
  }
}

bool has_native_bfloat16(const at::Device& device) {
  return device.is_cuda() || (device.is_cpu() && kernels::has_native_bfloat16());
}

}  // namespace perceiver::nn
