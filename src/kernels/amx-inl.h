#pragma once

#include "kernels/bfloat16-inl.h"

// Products of bfloat16 pairs on AMX: a tile is 16 rows of 16 words, and one instruction adds a tile
// of A times a tile of B, 32 deep, to a tile of C. A and B lie as bfloat16-inl.h leaves them, only
// padded with zeros to whole tiles. Tiles is the instructions (attend_amx.cpp), or what they do
// written as loops (tests):
//
//   configure(), release()                    around an item: eight tiles, whole
//   zero<t>(), load<t>(p, stride), store<t>(p, stride)      strides in words
//   add_products<c, a, b>()                   tile c += tile a * tile b

namespace perceiver::kernels {
namespace {

static_assert(kLanes == 16, "a vector is a row of a tile");
constexpr int64_t kTile = 16;

// Tiles 0 to 3 are of C, 4 and 5 of A, 6 and 7 of B.
template <typename Tiles, int kRowTiles, int kColumnTiles>
inline void multiply_amx(const Product& product, const float* a, const float* b, float* c) {
  const int64_t width = kColumnTiles * kTile, lda = product.lda, ldc = product.ldc;
  const auto each_of_c = [&](auto one, auto two, auto three, auto four)
      __attribute__((always_inline)) {
    one(c);
    if constexpr (kColumnTiles == 2) {
      two(c + kTile);
    }
    if constexpr (kRowTiles == 2) {
      three(c + kTile * ldc);
    }
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) {
      four(c + kTile * ldc + kTile);
    }
  };
  if (product.accumulate) {
    each_of_c([ldc](float* p) { Tiles::template load<0>(p, ldc); },
              [ldc](float* p) { Tiles::template load<1>(p, ldc); },
              [ldc](float* p) { Tiles::template load<2>(p, ldc); },
              [ldc](float* p) { Tiles::template load<3>(p, ldc); });
  } else {
    each_of_c([](float*) { Tiles::template zero<0>(); }, [](float*) { Tiles::template zero<1>(); },
              [](float*) { Tiles::template zero<2>(); }, [](float*) { Tiles::template zero<3>(); });
  }
  for (int64_t p = 0; p < product.k; p += kTile) {
    Tiles::template load<4>(a + p, lda);
    Tiles::template load<6>(b + p * width, width);
    Tiles::template add_products<0, 4, 6>();
    if constexpr (kColumnTiles == 2) {
      Tiles::template load<7>(b + p * width + kTile, width);
      Tiles::template add_products<1, 4, 7>();
    }
    if constexpr (kRowTiles == 2) {
      Tiles::template load<5>(a + kTile * lda + p, lda);
      Tiles::template add_products<2, 5, 6>();
    }
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) {
      Tiles::template add_products<3, 5, 7>();
    }
  }
  each_of_c([ldc](float* p) { Tiles::template store<0>(p, ldc); },
            [ldc](float* p) { Tiles::template store<1>(p, ldc); },
            [ldc](float* p) { Tiles::template store<2>(p, ldc); },
            [ldc](float* p) { Tiles::template store<3>(p, ldc); });
}

/// Rows beyond the last are read and written up to a whole tile: buffers have room for them and
/// nobody looks at what they become.
template <typename Tiles, int kColumnTiles>
inline void multiply_amx_panel(const Product& product, const float* b, float* c) {
  int64_t row = 0;
  for (; row + kTile < product.rows; row += 2 * kTile) {
    multiply_amx<Tiles, 2, kColumnTiles>(product, product.a + row * product.lda, b,
                                         c + row * product.ldc);
  }
  if (row < product.rows) {
    multiply_amx<Tiles, 1, kColumnTiles>(product, product.a + row * product.lda, b,
                                         c + row * product.ldc);
  }
}

template <typename Tiles>
struct AmxPairs {
  static constexpr bool kWeighsInRegisters = false;
  static void begin_item() { Tiles::configure(); }
  static void end_item() { Tiles::release(); }
  /// Whole tiles, but where fewer than 16 numbers cannot fill half of one.
  static PERCEIVER_INLINE int64_t words(int64_t k) {
    const int64_t pairs = (k + 1) / 2;
    return k < kTile ? pairs : round_up(pairs, kTile);
  }
  static PERCEIVER_INLINE void narrow_row(float* row, int64_t k) {
    narrow_row_to(row, k, words(k));
  }
  static PERCEIVER_INLINE void narrow_panels(float* packed, int64_t k, int64_t n) {
    narrow_panels_to(packed, k, n, words(k));
  }
  static PERCEIVER_INLINE void product(const Product& product) {
    if (product.k % kTile != 0) {
      multiply<Left::kRows, PairWords>(product);
      return;
    }
    for_panels(
        product.n, [&]<int kVectors>(int64_t column) __attribute__((always_inline)) {
          multiply_amx_panel<Tiles, kVectors>(product, product.b + column * product.k,
                                              product.c + column);
        });
  }
};

}  // namespace
}  // namespace perceiver::kernels
