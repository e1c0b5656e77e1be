#pragma once

#include <dnnl.hpp>

namespace perceiver::runtime {

/// oneDNN's engine for the processor. Never destroyed: primitives may outlive static objects.
inline const dnnl::engine& cpu() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

}  // namespace perceiver::runtime
