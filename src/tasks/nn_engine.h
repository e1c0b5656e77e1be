#pragma once

#include <memory>

#include "perceiver/base/array.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tasks/bundle.h"

// The LibTorch engine, which a program may have been built without: then nn_engine_none.cpp stands
// in for nn_engine.cpp.

namespace perceiver::tasks {

bool has_nn_engine();

/// @throws Error(kUnsupported) in a program without LibTorch
std::unique_ptr<Engine> make_nn_engine(const Bundle& bundle, const EngineChoice& choice,
                                       DType dtype, Plan plan);

}  // namespace perceiver::tasks
