// The only file of this room that knows which engines exist.
#include "perceiver/nn/engine.h"

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
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
  return nn::measure_gemm_peak(num_threads);
}

}  // namespace perceiver::tasks
