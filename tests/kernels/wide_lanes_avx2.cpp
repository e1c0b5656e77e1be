#if defined(__AVX2__)

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/attend_forward-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/strassen-inl.h"
#include "kernels/wide_lanes.h"

namespace perceiver::kernels {
namespace {

constexpr KernelTable kWideLanes = {
    .attend = {.scratch = scratch_floats, .item = run_item<Floats>},
    .row_statistics = row_statistics_of,
    .normalise_rows = normalise_rows_of,
    .activate_rows = activate_rows_of,
    .strassen = kStrassen,
};

}  // namespace

const KernelTable* wide_lanes_kernels() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kWideLanes : nullptr;
}

}  // namespace perceiver::kernels

#else

#include "kernels/wide_lanes.h"

namespace perceiver::kernels {

const KernelTable* wide_lanes_kernels() {
  return nullptr;
}

}  // namespace perceiver::kernels

#endif
