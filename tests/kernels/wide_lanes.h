#pragma once

namespace perceiver::kernels {

struct ForwardKernel;
struct KernelTable;

/// The kernels with 16 lanes, as for AVX-512, compiled for AVX2: the compiler makes two of every
/// vector. Slow; it is AVX-512's lane logic on CPUs without. Null where not compiled or not
/// runnable.
const KernelTable* wide_lanes_kernels();

/// Likewise attention in bfloat16 as AVX512_BF16 computes it, its instructions written as floats.
const ForwardKernel* wide_lanes_bfloat16();
/// And as AMX computes it.
const ForwardKernel* emulated_amx();

}  // namespace perceiver::kernels
