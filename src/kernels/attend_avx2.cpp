#if defined(__x86_64__)

// AVX2 with fused multiply-add: see tile-inl.h for why the lanes come first.

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 8;
}
}  // namespace perceiver::kernels

#include "kernels/attend_forward-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/strassen-inl.h"

namespace perceiver::kernels {

const KernelTable kAvx2Kernels = {
    .attend = {.scratch = scratch_floats, .item = run_item<Floats>},
    .row_statistics = row_statistics_of,
    .normalise_rows = normalise_rows_of,
    .activate_rows = activate_rows_of,
    .strassen = kStrassen,
};

}  // namespace perceiver::kernels

#endif
