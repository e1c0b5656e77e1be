#pragma once

#include <memory>
#include <string>

#include "perceiver/base/array.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tokens/engine.h"

namespace perceiver::nn {

struct EngineOptions {
  DType dtype = DType::kF32;   ///< kF32, kF64 or kBF16: of weights and arithmetic
  DType tables = DType::kF32;  ///< kF64: Fourier tables computed exactly, then cast to `dtype`
  std::string device = "cpu";  ///< "cpu", "cuda", "cuda:1"
  int num_threads = 0;         ///< 0 = leave LibTorch's setting
  Plan plan = Plan::kAuto;     ///< kTextbook: the formulas as they are written
};

/// The reference engine, on nn::Model.
/// @param weights  our names (parameter_table); checked
/// @throws Error(kFormat) from check_parameters, Error(kArgument) for an unusable device
std::unique_ptr<Engine> make_engine(const ModelSpec& spec, const ArrayMap& weights,
                                    const EngineOptions& options = {});

/// The fastest of a few large float32 matrix products on the CPU, in flops per second.
/// @param num_threads  0 = leave LibTorch's setting
double measure_gemm_peak(int num_threads);

}  // namespace perceiver::nn
