#pragma once

#include "kernels/strassen_kernel.h"
#include "kernels/tile-inl.h"

// Weights laid out for the seven products, one text for every instruction set (see tile-inl.h).

namespace perceiver::kernels {
namespace {

/// Powers of two that columns are divided by, and their inverses.
struct ColumnSizes {
  V factor, inverse;
};

/// The power of two below the largest magnitude of each column; zeros for a column of zeros, ones
/// for one that is no number.
PERCEIVER_INLINE ColumnSizes sizes_of(V largest) {
  constexpr int32_t kInfinite = 255 << 23, kOne = 127 << 23;
  // so that it and its inverse are normal numbers
  constexpr int32_t kLeast = 1 << 23, kMost = 253 << 23;
  const I least = I{} + kLeast, most = I{} + kMost;
  const I exponent = to_bits(largest) & kInfinite;
  I bits = exponent < kLeast ? least : exponent;
  bits = bits > kMost ? most : bits;
  bits = exponent == kInfinite ? I{} + kOne : bits;
  const I some = largest != V{};
  return {from_bits(bits & some), from_bits(((254 << 23) - bits) & some)};
}

PERCEIVER_INLINE V magnitude(V v) {
  return from_bits(to_bits(v) & 0x7fffffff);
}

/// The largest magnitude of a row; NaN is passed over.
inline float largest_of(const float* row, int64_t width) {
  V most[2] = {};
  int64_t c = 0;
  for (; c + kPanel <= width; c += kPanel) {
    most[0] = max(magnitude(load(row + c)), most[0]);
    most[1] = max(magnitude(load(row + c + kLanes)), most[1]);
  }
  for (; c < width; c += kLanes) {
    const V v = c + kLanes <= width ? load(row + c) : load_first(row + c, width - c);
    most[0] = max(magnitude(v), most[0]);
  }
  return max_of(max(most[0], most[1]));
}

/// kLanes columns that are rows in memory.
PERCEIVER_INLINE ColumnSizes sizes_of_rows(const float* rows, int64_t stride, int64_t width) {
  alignas(V) float largest[kLanes];
  for (int64_t r = 0; r < kLanes; ++r) {
    largest[r] = largest_of(rows + r * stride, width);
  }
  return sizes_of(load(largest));
}

constexpr int64_t kLineFloats = 16;
/// Vectors of a wide and of a narrow panel. Four rows by three vectors load less for a product than
/// six by two; vectors of 4, whose products need a register of their own, have no room for it.
constexpr int kWideVectors = kLanes == 4 ? 2 : 3;
constexpr int kNarrowVectors = 2;
constexpr PanelWidths kPanelWidths = {.wide = kWideVectors * kLanes,
                                      .narrow = kNarrowVectors * kLanes};

inline StrassenPanels panels_of(int64_t half_out) {
  return strassen_panels(kPanelWidths, half_out);
}

/// Neighbouring panels of kVectors of one half of a weight's output, packed at once.
template <int kVectors>
struct PanelBlock {
  static constexpr int64_t kWidth = kVectors * kLanes;

  const StrassenSource& source;
  int64_t n, first, count;  ///< the first column of half n of the output, and how many panels
  float* packed;

  int64_t half_in() const { return source.in / 2; }
  int64_t column() const { return n * source.out / 2 + first; }
  float* factors() const { return packed + source.in * source.out + column(); }
  /// Of half h of the channels, [in / 2][kWidth].
  float* panel(int64_t index, int64_t h) const {
    return packed + (4 * (first + index * kWidth) + (2 * h + n) * kWidth) * half_in();
  }
};

/// Columns that are rows in memory; while it moves some it asks for the next ones.
template <int kVectors>
inline void pack_panel_of_rows(const PanelBlock<kVectors>& block, int64_t index) {
  constexpr int64_t kWidth = PanelBlock<kVectors>::kWidth;
  const int64_t stride = block.source.weight.column_step;
  const float* from = block.source.weight.data + (block.column() + index * kWidth) * stride;
  for (int64_t v = 0; v < kVectors; ++v) {
    const ColumnSizes sizes = sizes_of_rows(from + v * kLanes * stride, stride, block.source.in);
    store(block.factors() + index * kWidth + v * kLanes, sizes.factor);
    for (int64_t h = 0; h < 2; ++h) {
      const float* rows[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) {
        rows[r] = from + (v * kLanes + r) * stride + h * block.half_in();
      }
      float* to = block.panel(index, h) + v * kLanes;
      for (int64_t c = 0; c < block.half_in(); c += kLineFloats) {
        for (int64_t r = 0; r < kLanes; ++r) {
          __builtin_prefetch(rows[r] + kLanes * stride + c, 0, 2);
        }
        transpose_lanes(
            rows, c, lesser(c + kLineFloats, block.half_in()), to + c * kWidth,
            kWidth, [&](V column) __attribute__((always_inline)) {
              return column * sizes.inverse;
            });
      }
    }
  }
}

/// Columns as they lie. Several panels at once: rows are often pages apart, and a page would be
/// visited for every panel.
constexpr int64_t kPanelsAtOnce = 4;
/// How far ahead rows are asked for.
constexpr int64_t kRowsAhead = 16;

template <int kVectors>
inline void divide_panel(const PanelBlock<kVectors>& block, int64_t index,
                         const V (&inverse)[kVectors]) {
  for (int64_t h = 0; h < 2; ++h) {
    float* at = block.panel(index, h);
    for (int64_t k = 0; k < block.half_in(); ++k) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        store(at + v * kLanes, load(at + v * kLanes) * inverse[v]);
      }
      at += PanelBlock<kVectors>::kWidth;
    }
  }
}

/// Divided where they were moved to: rows that are pages apart don't stay in the second cache.
template <int kVectors, int kCount>
inline void pack_panels_of_columns(const PanelBlock<kVectors>& block) {
  constexpr int kAll = kVectors * kCount;
  const int64_t stride = block.source.weight.row_step;
  const float* row = block.source.weight.data + block.column();
  V largest[kAll] = {};
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t k = 0; k < block.half_in(); ++k) {
      for (int64_t c = 0; c < kAll * kLanes; c += kLineFloats) {
        __builtin_prefetch(row + kRowsAhead * stride + c, 0, 2);
      }
#pragma GCC unroll 12
      for (int v = 0; v < kAll; ++v) {
        const V value = load(row + v * kLanes);
        largest[v] = max(magnitude(value), largest[v]);
        store(block.panel(v / kVectors, h) + (k * kVectors + v % kVectors) * kLanes, value);
      }
      row += stride;
    }
  }
  for (int64_t index = 0; index < kCount; ++index) {
    V inverse[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const ColumnSizes sizes = sizes_of(largest[index * kVectors + v]);
      store(block.factors() + (index * kVectors + v) * kLanes, sizes.factor);
      inverse[v] = sizes.inverse;
    }
    divide_panel(block, index, inverse);
  }
}

/// @param first  the first column of half n of the output
template <int kVectors>
inline void pack_panels(const StrassenSource& source, int64_t n, int64_t first, int64_t count,
                        float* packed) {
  for (int64_t done = 0; done < count; done += kPanelsAtOnce) {
    const PanelBlock<kVectors> block{source, n, first + done * PanelBlock<kVectors>::kWidth,
                                     lesser(kPanelsAtOnce, count - done), packed};
    if (source.weight.column_step != 1) {
      for (int64_t index = 0; index < block.count; ++index) {
        pack_panel_of_rows(block, index);
      }
    } else {
      last_strip<kPanelsAtOnce>(0, block.count, [&]<int kCount>(int64_t /*row*/) {
        pack_panels_of_columns<kVectors, kCount>(block);
      });
    }
  }
}

inline void pack_strassen(const StrassenSource& source, PanelRange panels, float* packed) {
  const StrassenPanels all = panels_of(source.out / 2);
  const int64_t wide_end = lesser(panels.end, all.wide);
  const int64_t narrow_first = panels.first > all.wide ? panels.first : all.wide;
  for (int64_t n = 0; n < 2; ++n) {
    pack_panels<kWideVectors>(source, n, panel_column(all, panels.first), wide_end - panels.first,
                              packed);
    pack_panels<kNarrowVectors>(source, n, panel_column(all, narrow_first),
                                panels.end - narrow_first, packed);
  }
}

/// Rows [rows.first, rows.end) of `to`, which are columns of `from`.
inline void transpose_rows(const Transposition& move, RowRange rows) {
  int64_t c = 0;
  for (; c + kLanes <= move.columns; c += kLanes) {
    const float* lines[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      lines[l] = move.from + (c + l) * move.from_stride;
    }
    transpose_lanes(lines, rows.first, rows.end, move.to + rows.first * move.to_stride + c,
                    move.to_stride);
  }
  for (; c < move.columns; ++c) {
    for (int64_t r = rows.first; r < rows.end; ++r) {
      move.to[r * move.to_stride + c] = move.from[c * move.from_stride + r];
    }
  }
}

}  // namespace
}  // namespace perceiver::kernels
