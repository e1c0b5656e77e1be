#if defined(__x86_64__)

// AVX-512: see tile-inl.h for why the lanes come first.

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/attend_backward-inl.h"

namespace perceiver::kernels {

const BackwardKernels kAvx512Backward = {
    .lanes = kLanes,
    .pack_queries = pack_queries,
    .pack_keys = pack_keys,
    .run_tile = run_backward_tile,
    .add_rows = add_rows,
};

}  // namespace perceiver::kernels

#endif
