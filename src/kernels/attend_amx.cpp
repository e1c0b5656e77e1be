#if defined(__x86_64__)

// AMX-TILE and AMX-BF16 besides what attend_avx512bf16.cpp needs.

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/amx-inl.h"

namespace perceiver::kernels {
namespace {

/// As ldtilecfg reads it.
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// In assembler: the compiler's intrinsics paste a literal number, which a template has not.
struct AmxTiles {
  static void configure() {
    alignas(64) static constexpr TileConfig kConfig{
        1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    asm volatile("ldtilecfg %0" : : "m"(kConfig));
  }
  static void release() { asm volatile("tilerelease"); }
  template <int kIndex>
  static PERCEIVER_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kIndex));
  }
  template <int kIndex>
  static PERCEIVER_INLINE void load(const float* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(p), "r"(4 * stride), "i"(kIndex)
                 : "memory");
  }
  template <int kIndex>
  static PERCEIVER_INLINE void store(float* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(p), "r"(4 * stride), "i"(kIndex)
                 : "memory");
  }
  template <int kC, int kA, int kB>
  static PERCEIVER_INLINE void add_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace

const ForwardKernel kAmxBfloat16 = {.scratch = scratch_floats,
                                    .item = run_item<AmxPairs<AmxTiles>>};

}  // namespace perceiver::kernels

#endif
