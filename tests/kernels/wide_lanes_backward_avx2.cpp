#if defined(__AVX2__)

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/attend_backward-inl.h"
#include "kernels/wide_lanes_backward.h"

namespace perceiver::kernels {
namespace {

constexpr BackwardKernels kWideLanes = {
    .lanes = kLanes,
    .pack_queries = pack_queries,
    .pack_keys = pack_keys,
    .run_tile = run_backward_tile,
    .add_rows = add_rows,
};

}  // namespace

const BackwardKernels* wide_lanes_backward() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kWideLanes : nullptr;
}

}  // namespace perceiver::kernels

#else

#include "kernels/wide_lanes_backward.h"

namespace perceiver::kernels {

const BackwardKernels* wide_lanes_backward() {
  return nullptr;
}

}  // namespace perceiver::kernels

#endif
