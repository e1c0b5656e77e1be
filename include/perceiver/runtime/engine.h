#pragma once

#include <cstdint>
#include <memory>

#include "perceiver/base/array.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tokens/engine.h"

namespace perceiver::runtime {

struct EngineOptions {
  /// kF32, or kBF16: weights rounded to bfloat16; products, those of attention included, in
  /// bfloat16 where the CPU multiplies it.
  DType dtype = DType::kF32;
  Plan plan = Plan::kAuto;
  int num_threads = 0;  ///< 0 = OpenMP's setting
  /// Bytes of scratch for blocks of tokens and rows; 0 = the engine chooses. With a bound, inputs
  /// that are mapped files leave memory again as they are read.
  int64_t memory_budget = 0;
};

/// CPU inference without LibTorch for every ModelSpec.
/// @param weights  our names (parameter_table); checked. Mapped files are read once and their pages
///                 given back as weights are packed.
/// @throws Error(kFormat) from check_parameters, Error(kUnsupported) for a dtype it can't compute
/// in
std::unique_ptr<Engine> make_engine(const ModelSpec& spec, const ArrayMap& weights,
                                    const EngineOptions& options = {});

/// Best of a few large float32 products by the GEMM library, in flops per second.
double measure_gemm_peak(int num_threads);

}  // namespace perceiver::runtime
