#if defined(__x86_64__)

// AVX512_BF16 besides what attend_avx512.cpp needs.

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/bfloat16-inl.h"

namespace perceiver::kernels {

const ForwardKernel kAvx512Bfloat16 = {.scratch = scratch_floats, .item = run_item<Bfloat16Pairs>};

}  // namespace perceiver::kernels

#endif
