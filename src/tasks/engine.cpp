// The only file of this room that knows which engines exist.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/engine.h"
#include "perceiver/tasks/bundle.h"

namespace perceiver::tasks {
namespace {

DType parse_precision(const std::string& precision) {
  if (precision == "fp32") {
    return DType::kF32;
  }
  if (precision == "fp64") {
    return DType::kF64;
  }
  if (precision == "bf16") {
    return DType::kBF16;
  }
  throw Error(ErrorCode::kArgument,
              cat("unknown precision \"", printable(precision), "\"; there are fp32, fp64, bf16"));
}

}  // namespace

std::unique_ptr<Engine> make_engine(const Bundle& bundle, const EngineChoice& choice) {
  if (choice.engine != "auto" && choice.engine != "nn") {
    throw Error(ErrorCode::kArgument,
                cat("no engine \"", printable(choice.engine), "\" in this program; there is nn"));
  }
  nn::EngineOptions options;
  options.dtype = parse_precision(choice.precision);
  options.tables = options.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  options.device = choice.device;
  options.num_threads = choice.num_threads;
  return nn::make_engine(bundle.spec, bundle.weights, options);
}

double measure_gemm_peak(int num_threads) {
  if (num_threads > 0) {
    at::set_num_threads(num_threads);
  }
  constexpr int64_t kSide = 1536;  // large enough for the peak, some 0.1 s on two slow cores
  const at::Tensor a = at::ones({kSide, kSide});
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    const at::Tensor product = at::mm(a, a);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds);
  }
  return best;
}

}  // namespace perceiver::tasks
