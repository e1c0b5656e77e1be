#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Vectors and the matrix micro-kernel, one text for every instruction set. A file that includes
// this defines, first,
//
//   namespace perceiver::kernels { namespace { constexpr int kLanes = 8; } }
//
// (4, 8 or 16 floats a vector) and is compiled with the flags of its instruction set. All of it
// has internal linkage and no standard container or <cmath> is used: a weak symbol made here could
// replace, at link time, the copy that runs on CPUs without these instructions.
//
// Products are C[rows, n] (+)= A[rows, k] * B[k, n]:
//   A   as it lies in memory, by rows (a[r * lda + p]) or by columns (a[p * lda + r]); a panel
//       packed as [k][rows] is the latter with lda = rows
//   B   packed in panels of kPanel = 2 * kLanes columns, each [k][kPanel]; the last one is
//       [k][kLanes] when no more than kLanes columns are left; missing columns are zero
//   C   row-major with room for round_up(n, kLanes) columns: the padding is written
// Compiled with -O2: GCC 12's -O3 reorders the loop below and spills accumulators.

namespace perceiver::kernels {
namespace {

#define PERCEIVER_INLINE inline __attribute__((always_inline))
/// For loops that need all registers for themselves.
#define PERCEIVER_NOINLINE inline __attribute__((noinline))

typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));
typedef float LooseV __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

constexpr int64_t kPanel = 2 * kLanes;
/// Rows of C held in registers: as many as leave room for two vectors of B and one of A.
constexpr int kTileRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;
constexpr float kInfinity = __builtin_inff();

PERCEIVER_INLINE constexpr int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}
PERCEIVER_INLINE constexpr int64_t lesser(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// ---- vectors ----

PERCEIVER_INLINE V load(const float* p) {
  return *reinterpret_cast<const LooseV*>(p);
}
PERCEIVER_INLINE void store(float* p, V v) {
  *reinterpret_cast<LooseV*>(p) = v;
}
PERCEIVER_INLINE V broadcast(float x) {
  return x - V{};
}

/// The second operand where either is NaN.
template <typename T>
PERCEIVER_INLINE T max(T a, T b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(__m512)) {
    // not _mm512_max_ps: GCC 12 warns about its undefined operand
    return reinterpret_cast<T>(
        _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(__m256)) {
    return reinterpret_cast<T>(
        _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  }
#endif
  return a > b ? a : b;
}
PERCEIVER_INLINE V select(I mask, V yes, V no) {
  return mask ? yes : no;
}
PERCEIVER_INLINE V from_bits(I bits) {
  return reinterpret_cast<V>(bits);
}
PERCEIVER_INLINE I to_bits(V v) {
  return reinterpret_cast<I>(v);
}

/// True in the first n lanes.
PERCEIVER_INLINE I first_lanes(int64_t n) {
  I index{};
  for (int l = 0; l < kLanes; ++l) {
    index[l] = l;
  }
  return index < static_cast<int32_t>(n);
}

/// The first n < kLanes floats, zeros behind them; reads nothing beyond.
PERCEIVER_INLINE V load_first(const float* p, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16) {
    return reinterpret_cast<V>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
  }
#endif
  alignas(V) float lanes[kLanes] = {};
  for (int64_t l = 0; l < n; ++l) {
    lanes[l] = p[l];
  }
  return load(lanes);
}
PERCEIVER_INLINE void store_first(float* p, V v, int64_t n) {
  alignas(V) float lanes[kLanes];
  store(lanes, v);
  for (int64_t l = 0; l < n; ++l) {
    p[l] = lanes[l];
  }
}

/// combine(..) over the lanes, halving.
template <int kCount, typename T, typename F>
PERCEIVER_INLINE float reduce(T v, F combine) {
  if constexpr (kCount == 16) {
    return reduce<8>(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
                     combine);
  } else if constexpr (kCount == 8) {
    return reduce<4>(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3),
                             __builtin_shufflevector(v, v, 4, 5, 6, 7)),
                     combine);
  } else {
    const auto pairs = combine(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    return combine(pairs, __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2))[0];
  }
}
PERCEIVER_INLINE float sum_of(V v) {
  return reduce<kLanes>(
      v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
PERCEIVER_INLINE float max_of(V v) {
  return reduce<kLanes>(
      v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

/// 2^x for |x| < 126, as exp2_of().
PERCEIVER_INLINE V exp2_within(V x) {
  // Adding 1.5 * 2^23 rounds to an integer in the low bits; 127 more makes them an exponent. At
  // -127 that exponent is 0, so that the factor is 0.
  constexpr float kMagic = 12582912.0f + 127.0f;
  const V shifted = x + kMagic;
  const V f = x - (shifted - kMagic);
  // Degree 5 is the least that stays near 2 ulp: minimax over [-1/2, 1/2] with 2^0 = 1 exactly,
  // the coefficients then moved by their last bits to where the worst float32 result is least.
  V y = f * 1.32643548e-3f + 9.67155769e-3f;
  y = y * f + 5.55074103e-2f;
  y = y * f + 2.40222484e-1f;
  y = y * f + 6.93147004e-1f;
  y = y * f + 1.0f;
  return y * from_bits(to_bits(shifted) << 23);
}

/// 2^x for x < 128, within 2 ulp (2.2 without fused multiply-add) where the result is a normal
/// number and exactly 0 below 2^-126.5, -inf included. NaN stays NaN.
PERCEIVER_INLINE V exp2_of(V x) {
  return exp2_within(max(broadcast(-127.0f), x));
}

/// e^x for x < 88.7, within 2 ulp where the result is a normal number and exactly 0 below 2^-126.5,
/// -inf included. NaN stays NaN.
PERCEIVER_INLINE V exp_of(V x) {
  x = max(broadcast(-88.0f), x);  // n = -127: a factor of 0
  constexpr float kMagic = 12582912.0f + 127.0f;
  const V shifted = x * 1.44269504088896341f + kMagic;
  const V n = shifted - kMagic;
  // ln 2 in two parts, the first with so few bits that n times it is exact.
  V f = x - n * 0.693359375f;
  f = f + n * 2.12194440e-4f;
  V y = f * 1.3836844215e-3f + 8.37481730436e-3f;
  y = y * f + 4.16682256812e-2f;
  y = y * f + 1.66664201522e-1f;
  y = y * f + 4.9999992079e-1f;
  y = y * (f * f) + f;
  y = y + 1.0f;
  return y * from_bits(to_bits(shifted) << 23);
}

// ---- packing B ----

constexpr int64_t packed_size(int64_t k, int64_t n) {
  return k * round_up(n, kLanes);
}

typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));

/// Four floats of each of kLanes rows, side by side: quarter q of vector t is columns 0..3 of row
/// 4 * q + t. Transposing each 4 x 4 quarter then gives columns of kLanes rows.
template <int kVectorLanes>
PERCEIVER_INLINE auto load_quads(const float* const* rows, int64_t column) {
  if constexpr (kVectorLanes == 4) {
    return *reinterpret_cast<const Quad*>(rows[0] + column);
  } else {
    constexpr int kHalf = kVectorLanes / 2;
    const auto low = load_quads<kHalf>(rows, column);
    const auto high = load_quads<kHalf>(rows + kHalf, column);
    if constexpr (kVectorLanes == 8) {
      return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    } else {
      return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                                     15);
    }
  }
}

/// Lane l of a and b interleaved within their quarters: their low or high halves, taken as single
/// floats (kWidth 1) or as pairs of floats (2).
template <int kWidth, bool kHigh>
constexpr int interleaved_lane(int l) {
  const int t = l % 4;
  const int from = kWidth == 1 ? t / 2 : t % 2;
  const bool second = kWidth == 1 ? t % 2 != 0 : t / 2 != 0;
  return l / 4 * 4 + from + (kHigh ? 2 : 0) + (second ? kLanes : 0);
}

template <int kWidth, bool kHigh, int... kLane>
PERCEIVER_INLINE V interleave_lanes(V a, V b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, interleaved_lane<kWidth, kHigh>(kLane)...);
}

template <int kWidth, bool kHigh>
PERCEIVER_INLINE V interleave_quarters(V a, V b) {
  return interleave_lanes<kWidth, kHigh>(a, b, std::make_integer_sequence<int, kLanes>());
}

struct FourColumns {
  V column[4];
};

/// Lane r of column c is rows[r][first + c].
PERCEIVER_INLINE FourColumns transposed_four(const float* const* rows, int64_t first) {
  const V r0 = load_quads<kLanes>(rows, first), r1 = load_quads<kLanes>(rows + 1, first);
  const V r2 = load_quads<kLanes>(rows + 2, first), r3 = load_quads<kLanes>(rows + 3, first);
  const V low01 = interleave_quarters<1, false>(r0, r1);
  const V low23 = interleave_quarters<1, false>(r2, r3);
  const V high01 = interleave_quarters<1, true>(r0, r1);
  const V high23 = interleave_quarters<1, true>(r2, r3);
  return {{interleave_quarters<2, false>(low01, low23), interleave_quarters<2, true>(low01, low23),
           interleave_quarters<2, false>(high01, high23),
           interleave_quarters<2, true>(high01, high23)}};
}

/// out[(c - first) * stride + r] = f(rows[r][c]) for columns [first, end) of kLanes rows.
template <typename F>
PERCEIVER_INLINE void transpose_lanes(const float* const* rows, int64_t first, int64_t end,
                                      float* out, int64_t stride, F f) {
  int64_t c = first;
  for (; c + 4 <= end; c += 4) {
    const FourColumns four = transposed_four(rows, c);
    for (int64_t i = 0; i < 4; ++i) {
      store(out + i * stride, f(four.column[i]));
    }
    out += 4 * stride;
  }
  for (; c < end; ++c) {
    V column{};
    for (int64_t r = 0; r < kLanes; ++r) {
      column[r] = rows[r][c];
    }
    store(out, f(column));
    out += stride;
  }
}

PERCEIVER_INLINE void transpose_lanes(const float* const* rows, int64_t first, int64_t end,
                                      float* out, int64_t stride) {
  transpose_lanes(
      rows, first, end, out, stride, [](V v) __attribute__((always_inline)) { return v; });
}

/// Packs B = X^T, X [n, k] row-major. Rows j with keep[j] == 0 become zero columns of B; keep may
/// be null.
/// @param zeros   k floats of zero, standing in for rows that are missing
PERCEIVER_NOINLINE void pack_transposed(const float* x, int64_t stride, int64_t n, int64_t k,
                                        const uint8_t* keep, const float* zeros, float* out) {
  const float* rows[kLanes];
  for (int64_t j = 0; j < n; j += kLanes) {
    for (int64_t r = 0; r < kLanes; ++r) {
      const bool present = j + r < n && (keep == nullptr || keep[j + r] != 0);
      rows[r] = present ? x + (j + r) * stride : zeros;
    }
    const int64_t panel = j / kPanel * kPanel;
    const int64_t width = round_up(n, kLanes) - panel < kPanel ? kLanes : kPanel;
    transpose_lanes(rows, 0, k, out + panel * k + j % kPanel, width);
  }
}

/// Packs B = X, X [k, n] row-major. Rows p with keep[p] == 0 become zero; keep may be null.
PERCEIVER_NOINLINE void pack_rows(const float* x, int64_t stride, int64_t k, int64_t n,
                                  const uint8_t* keep, float* out) {
  const int64_t whole = n / kPanel * kPanel;
  const int64_t left = n - whole;
  const int64_t last_width = left > kLanes ? kPanel : kLanes;
  for (int64_t p = 0; p < k; ++p) {
    const float* row = x + p * stride;
    const bool present = keep == nullptr || keep[p] != 0;
    float* to = out + p * kPanel;
    for (int64_t c = 0; c < whole; c += kPanel) {
      store(to, present ? load(row + c) : V{});
      store(to + kLanes, present ? load(row + c + kLanes) : V{});
      to += k * kPanel;
    }
    to = out + whole * k + p * last_width;
    for (int64_t c = whole; c < n; c += kLanes) {
      V v{};
      if (present) {
        v = c + kLanes <= n ? load(row + c) : load_first(row + c, n - c);
      }
      store(to + c - whole, v);
    }
  }
}

// ---- products ----

enum class Left { kRows, kColumns };

/// What the 32-bit words of A and B are. Here floats; bfloat16-inl.h has pairs of bfloat16.
struct FloatWords {
  static PERCEIVER_INLINE V broadcast_word(const float* p) { return broadcast(*p); }
  static PERCEIVER_INLINE V add_product(V sum, V left, V right) { return sum + left * right; }
};

/// sum += A * one panel of B.
template <typename Words, Left kLeft, int kRows, int kVectors>
PERCEIVER_INLINE void add_products(int64_t k, const float* a, int64_t lda, const float* b,
                                   V (&sum)[kRows][kVectors]) {
  for (int64_t p = 0; p < k; ++p) {
    V right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      right[v] = load(b + v * kLanes);
    }
    b += kVectors * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V left = Words::broadcast_word(kLeft == Left::kRows ? a + r * lda : a + r);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = Words::add_product(sum[r][v], left, right[v]);
      }
    }
    a += kLeft == Left::kRows ? 1 : lda;
  }
}

/// C[kRows, kVectors * kLanes] (+)= A * one panel of B.
template <typename Words, Left kLeft, int kRows, int kVectors>
PERCEIVER_INLINE void multiply_tile(int64_t k, const float* a, int64_t lda, const float* b,
                                    float* c, int64_t ldc, bool accumulate) {
  V sum[kRows][kVectors] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = load(c + r * ldc + v * kLanes);
      }
    }
  }
  add_products<Words, kLeft>(k, a, lda, b, sum);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      store(c + r * ldc + v * kLanes, sum[r][v]);
    }
  }
}

template <int kRows, typename Call>
inline void last_strip(int64_t first, int64_t rows, const Call& call) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      call.template operator()<kRows>(first);
    } else {
      last_strip<kRows - 1>(first, rows, call);
    }
  }
}

/// Calls call.operator()<count>(first row) for strips of kTileRows rows, then for the rows that are
/// left: one instantiation per count.
template <typename Call>
PERCEIVER_INLINE void for_strips(int64_t rows, const Call& call) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    call.template operator()<kTileRows>(r);
  }
  last_strip<kTileRows - 1>(r, rows - r, call);
}

/// Calls call.operator()<vectors>(first column) for the panels of n packed columns.
template <typename Call>
PERCEIVER_INLINE void for_panels(int64_t n, const Call& call) {
  const int64_t padded = round_up(n, kLanes);
  int64_t column = 0;
  for (; column + kPanel <= padded; column += kPanel) {
    call.template operator()<2>(column);
  }
  if (column < padded) {
    call.template operator()<1>(column);
  }
}

struct Product {
  int64_t rows, n, k;  ///< k in words
  const float* a;
  int64_t lda;
  const float* b;  ///< packed
  float* c;
  int64_t ldc;
  bool accumulate;
};

template <typename Words, Left kLeft, int kVectors>
inline void multiply_panel(const Product& product, const float* b, float* c) {
  const int64_t step = kLeft == Left::kRows ? product.lda : 1;
  for_strips(
      product.rows, [&]<int kRows>(int64_t r) __attribute__((always_inline)) {
        multiply_tile<Words, kLeft, kRows, kVectors>(product.k, product.a + r * step, product.lda,
                                                     b, c + r * product.ldc, product.ldc,
                                                     product.accumulate);
      });
}

/// Panel by panel, so that a panel (k * kPanel floats) stays in the first cache while A passes:
/// best for k of 256 to 512.
template <Left kLeft, typename Words = FloatWords>
inline void multiply(const Product& product) {
  for_panels(
      product.n, [&]<int kVectors>(int64_t column) __attribute__((always_inline)) {
        multiply_panel<Words, kLeft, kVectors>(product, product.b + column * product.k,
                                               product.c + column);
      });
}

}  // namespace
}  // namespace perceiver::kernels
