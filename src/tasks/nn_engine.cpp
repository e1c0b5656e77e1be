#include "tasks/nn_engine.h"

#include "perceiver/nn/engine.h"

namespace perceiver::tasks {

bool has_nn_engine() {
  return true;
}

std::unique_ptr<Engine> make_nn_engine(const Bundle& bundle, const EngineChoice& choice,
                                       DType dtype, Plan plan) {
  nn::EngineOptions options;
  options.dtype = dtype;
  options.tables = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  options.device = choice.device;
  options.num_threads = choice.num_threads;
  options.plan = plan;
  return nn::make_engine(bundle.spec, bundle.weights, options);
}

}  // namespace perceiver::tasks
