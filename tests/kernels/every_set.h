#pragma once

#include <string>

#include <gtest/gtest.h>

#include "perceiver/kernels/dispatch.h"

namespace perceiver::kernels {

/// Runs `test` with every set of kernels that runs here.
template <typename F>
void with_every_set(F test) {
  const std::string before = active_kernels();
  for (const KernelSet& set : kernel_sets()) {
    if (set.runs_here) {
      use_kernels(set.name);
      SCOPED_TRACE(set.name);
      test();
    }
  }
  use_kernels(before);
}

}  // namespace perceiver::kernels
