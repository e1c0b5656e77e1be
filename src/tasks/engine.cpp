// With nn_engine.cpp, the only files of this room that know which engines exist.
#include "perceiver/runtime/engine.h"

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tasks/bundle.h"
#include "tasks/nn_engine.h"

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

bool picks_runtime(const EngineChoice& choice, DType dtype) {
  const bool able = dtype != DType::kF64 && choice.device == "cpu";
  if (choice.engine == "auto") {
    return able;
  }
  if (choice.engine == "nn") {
    return false;
  }
  if (choice.engine != "runtime") {
    throw Error(ErrorCode::kArgument,
                cat("no engine \"", printable(choice.engine), "\"; there are ", engine_names()));
  }
  if (!able) {
    throw Error(ErrorCode::kArgument,
                cat("the runtime engine computes in fp32 or bf16 on the CPU, not in ",
                    choice.precision, " on ", printable(choice.device), "; the engine nn does"));
  }
  return true;
}

}  // namespace

std::string engine_names() {
  return has_nn_engine() ? "auto, runtime, nn" : "auto, runtime";
}

std::unique_ptr<Engine> make_engine(const Bundle& bundle, const EngineChoice& choice) {
  const DType dtype = parse_precision(choice.precision);
  const Plan plan = parse_plan(choice.plan);
  if (!picks_runtime(choice, dtype)) {
    return make_nn_engine(bundle, choice, dtype, plan);
  }
  runtime::EngineOptions options;
  options.dtype = dtype;
  options.plan = plan;
  options.num_threads = choice.num_threads;
  options.memory_budget = choice.memory_budget;
  return runtime::make_engine(bundle.spec, bundle.weights, options);
}

double measure_gemm_peak(int num_threads) {
  return runtime::measure_gemm_peak(num_threads);
}

}  // namespace perceiver::tasks
