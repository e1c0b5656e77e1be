#pragma once

#include <string>

#include <c10/core/Device.h>

namespace perceiver::nn {

/// "cpu", "cuda" or "cuda:N".
/// @param local_rank  place among this machine's processes: which GPU "cuda" is
/// @throws Error(kArgument) for another word, or when there is no such GPU
at::Device parse_device(const std::string& name, int local_rank = 0);

/// Whether `device` multiplies bfloat16 itself; every CUDA GPU is taken to.
bool has_native_bfloat16(const at::Device& device);

}  // namespace perceiver::nn
