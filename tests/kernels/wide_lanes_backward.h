#pragma once

namespace perceiver::kernels {

struct BackwardKernels;

/// The backward kernels with 16 lanes compiled for AVX2, as wide_lanes.h has the forward ones.
const BackwardKernels* wide_lanes_backward();

}  // namespace perceiver::kernels
