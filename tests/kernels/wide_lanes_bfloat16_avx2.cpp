#if defined(__AVX2__)

namespace perceiver::kernels {
namespace {
constexpr int kLanes = 16;
}
}  // namespace perceiver::kernels

#include "kernels/amx-inl.h"
#include "kernels/wide_lanes.h"

namespace perceiver::kernels {
namespace {

constexpr ForwardKernel kWideLanes = {.scratch = scratch_floats, .item = run_item<Bfloat16Pairs>};

/// AMX's tiles as loops over floats.
struct EmulatedTiles {
  struct Tile {
    alignas(64) float words[kTile][kTile];
  };
  static inline Tile tiles[8];
  static inline bool configured = false;

  static void configure() { configured = true; }
  static void release() { configured = false; }
  template <int kIndex>
  static void zero() {
    tiles[kIndex] = {};
  }
  template <int kIndex>
  static void load(const float* p, int64_t stride) {
    for (int64_t r = 0; r < kTile; ++r) {
      store(tiles[kIndex].words[r], perceiver::kernels::load(p + r * stride));
    }
  }
  template <int kIndex>
  static void store(float* p, int64_t stride) {
    for (int64_t r = 0; r < kTile; ++r) {
      store(p + r * stride, perceiver::kernels::load(tiles[kIndex].words[r]));
    }
  }
  static void store(float* p, V v) { perceiver::kernels::store(p, v); }
  template <int kC, int kA, int kB>
  static void add_products() {
    if (!configured) {
      __builtin_trap();  // as the CPU does
    }
    for (int64_t r = 0; r < kTile; ++r) {
      V sum = perceiver::kernels::load(tiles[kC].words[r]);
      for (int64_t p = 0; p < kTile; ++p) {
        sum = add_pairs(sum, PairWords::broadcast_word(&tiles[kA].words[r][p]),
                        perceiver::kernels::load(tiles[kB].words[p]));
      }
      store(tiles[kC].words[r], sum);
    }
  }
};

constexpr ForwardKernel kTiles = {.scratch = scratch_floats,
                                  .item = run_item<AmxPairs<EmulatedTiles>>};

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace

const ForwardKernel* wide_lanes_bfloat16() {
  return has_avx2() ? &kWideLanes : nullptr;
}
const ForwardKernel* emulated_amx() {
  return has_avx2() ? &kTiles : nullptr;
}

}  // namespace perceiver::kernels

#else

#include "kernels/wide_lanes.h"

namespace perceiver::kernels {

const ForwardKernel* wide_lanes_bfloat16() {
  return nullptr;
}
const ForwardKernel* emulated_amx() {
  return nullptr;
}

}  // namespace perceiver::kernels

#endif
