#pragma once

namespace perceiver::kernels {

struct KernelTable;

/// The kernels with 16 lanes, as for AVX-512, compiled for AVX2: the compiler makes two of every
/// vector. Slow; it is AVX-512's lane logic on CPUs without. Null where not compiled or not
/// runnable.
const KernelTable* wide_lanes_kernels();

}  // namespace perceiver::kernels
