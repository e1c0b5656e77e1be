#pragma once

#include "kernels/attend_forward-inl.h"

// Products of bfloat16, two a word: AVX512_BF16's vdpbf16ps multiplies 16 pairs of them and adds
// both products to a float32. Floats are made as everywhere, then narrowed in place: rows of A to
// half their length, two rows of a panel of B to one of pairs. Without the instruction the same
// text computes what it does with floats; only tests compile that, for it is slower than float32.

namespace perceiver::kernels {
namespace {

typedef uint32_t U __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Narrow __attribute__((vector_size(2 * kLanes)));
typedef uint16_t LooseNarrow __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
typedef int32_t LooseWord __attribute__((may_alias));

/// Rounded to the nearest bfloat16, ties to even, in the upper half of each lane. NaN stays NaN.
PERCEIVER_INLINE U round_to_bfloat16(V v) {
  const U bits = reinterpret_cast<U>(v);
  const U rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return (v == v ? rounded : bits | 0x400000) & 0xffff0000;
}

PERCEIVER_INLINE Narrow narrow(V v) {
#if defined(__AVX512BF16__)
  if constexpr (kLanes == 16) {
    return reinterpret_cast<Narrow>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
  }
#endif
  return __builtin_convertvector(round_to_bfloat16(v) >> 16, Narrow);
}

/// sum + a[0] b[0] + a[1] b[1] of each lane's pair.
PERCEIVER_INLINE V add_pairs(V sum, V a, V b) {
#if defined(__AVX512BF16__)
  if constexpr (kLanes == 16) {
    return reinterpret_cast<V>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                reinterpret_cast<__m512bh>(a),
                                                reinterpret_cast<__m512bh>(b)));
  }
#endif
  const auto low = [](V v) __attribute__((always_inline)) {
    return from_bits(to_bits(v) << 16);
  };
  const auto high = [](V v) __attribute__((always_inline)) {
    return from_bits(to_bits(v) & static_cast<int32_t>(0xffff0000));
  };
  return sum + high(a) * high(b) + low(a) * low(b);
}

struct PairWords {
  static PERCEIVER_INLINE V broadcast_word(const float* p) {
    return from_bits(*reinterpret_cast<const LooseWord*>(p) - I{});
  }
  static PERCEIVER_INLINE V add_product(V sum, V left, V right) {
    return add_pairs(sum, left, right);
  }
};

/// The first k floats of a row become bfloat16, zeros behind them up to the end of `words`.
inline void narrow_row_to(float* row, int64_t k, int64_t words) {
  for (int64_t j = 0; j < 2 * words; j += kLanes) {
    V v{};
    if (j + kLanes <= k) {
      v = load(row + j);
    } else if (j < k) {
      v = load_first(row + j, k - j);
    }
    *reinterpret_cast<LooseNarrow*>(reinterpret_cast<uint16_t*>(row) + j) = narrow(v);
  }
}

/// Rows 2p and 2p + 1 of each panel of [k, n] become row p of pairs, zeros from row k on. In place
/// because words <= k: what is written lies at or before what is read next.
inline void narrow_panels_to(float* packed, int64_t k, int64_t n, int64_t words) {
  const int64_t padded = round_up(n, kLanes);
  for (int64_t column = 0; column < padded; column += kPanel) {
    const int64_t width = lesser(padded - column, kPanel);
    const float* from = packed + column * k;
    float* to = packed + column * words;
    for (int64_t p = 0; p < words; ++p) {
      for (int64_t c = 0; c < width; c += kLanes) {
        const V even = 2 * p < k ? load(from + 2 * p * width + c) : V{};
        const V odd = 2 * p + 1 < k ? load(from + (2 * p + 1) * width + c) : V{};
        const U pair = round_to_bfloat16(odd) | round_to_bfloat16(even) >> 16;
        store(to + p * width + c, reinterpret_cast<V>(pair));
      }
    }
  }
}

struct Bfloat16Pairs {
  static constexpr bool kWeighsInRegisters = false;
  static void begin_item() {}
  static void end_item() {}
  static PERCEIVER_INLINE int64_t words(int64_t k) { return (k + 1) / 2; }
  static PERCEIVER_INLINE void narrow_row(float* row, int64_t k) {
    narrow_row_to(row, k, words(k));
  }
  static PERCEIVER_INLINE void narrow_panels(float* packed, int64_t k, int64_t n) {
    narrow_panels_to(packed, k, n, words(k));
  }
  static PERCEIVER_INLINE void product(const Product& product) {
    multiply<Left::kRows, PairWords>(product);
  }
};

}  // namespace
}  // namespace perceiver::kernels
