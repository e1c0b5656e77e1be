#pragma once

#include "kernels/rows-inl.h"
#include "kernels/strassen_kernel.h"
#include "kernels/strassen_pack-inl.h"
#include "kernels/tile-inl.h"

// Strassen's seven products, one text for every instruction set (see tile-inl.h). Sums of quarters
// of x are made once for all panels of a thread; a sum of quarters of W is made panel by panel, by
// the first strip of rows while it multiplies, so that no second copy of the weights exists; a
// product is added to the quarters of y it belongs to straight from the registers.

namespace perceiver::kernels {
namespace {

/// Input channels for which sums of x are made at once: half a group of them stays in the second
/// cache.
constexpr int64_t kBlockChannels = 640;
/// Those multiplied at once: a panel of them stays in the first cache, and is one running sum;
/// longer ones round more.
constexpr int64_t kSliceChannels = 320;
/// Columns of half an output that all steps pass over: more would leave the second cache.
constexpr int64_t kBlockColumns = 768;
/// Vectors of sums of a strip: those of a tile.
constexpr int kStripSums = kTileRows * kPanel / kLanes;
/// Steps of the inner loop between two looks ahead.
constexpr int64_t kStride = 16;
/// Cache lines asked for in each, so that all strips together ask for two panels.
constexpr int kLinesAhead = kLanes == 16 ? 6 : 2;
/// Floats of scratch for sums of x; the last slice is stored as wide as the others.
constexpr int64_t kSumsOfX = kStrassenGroup / 2 * (kBlockChannels + kSliceChannels);

/// quarter[0] + sign * quarter[1]; the second is -1 where there is one alone.
struct QuarterSum {
  int quarter[2];
  float sign;
};

struct StrassenStep {
  QuarterSum x, w;
  int targets;
  int target[2];
  float sign[2];  ///< of what is added to each target
};

constexpr QuarterSum alone(int quarter) {
  return {{quarter, -1}, 0};
}

/// Quarters as 2 * row + column.
constexpr StrassenStep kSeven[] = {
    {{{0, 3}, 1}, {{0, 3}, 1}, 2, {0, 3}, {1, 1}},  {alone(0), {{1, 3}, -1}, 2, {1, 3}, {1, 1}},
    {alone(3), {{2, 0}, -1}, 2, {2, 0}, {1, 1}},    {{{2, 3}, 1}, alone(0), 2, {2, 3}, {1, -1}},
    {{{0, 1}, 1}, alone(3), 2, {1, 0}, {1, -1}},    {{{2, 0}, -1}, {{0, 1}, 1}, 1, {3, 0}, {1, 0}},
    {{{1, 3}, -1}, {{2, 3}, 1}, 1, {0, 0}, {1, 0}},
};

constexpr int64_t kSteps = sizeof(kSeven) / sizeof(kSeven[0]);

/// As defined, of rows that are not halved: quarters 0 and 1 of x and y.
constexpr StrassenStep kPlain[] = {
    {alone(0), alone(0), 1, {0, 0}, {1, 0}},
    {alone(0), alone(1), 1, {1, 0}, {1, 0}},
    {alone(1), alone(2), 1, {0, 0}, {1, 0}},
    {alone(1), alone(3), 1, {1, 0}, {1, 0}},
};

/// Where a product goes: c = (starts ? (adds ? c : 0) + bias : c) + sign * factor * product.
struct Destination {
  float* c;
  const float* factors;
  const float* biases;
  float sign;
  bool starts, adds;
};

/// Channels [first, first + width) of half of `in`.
struct ChannelBlock {
  int64_t first, width;
};

/// One product of the list, of one panel and one block of channels, slice by slice.
struct PanelProduct {
  int64_t rows;
  ChannelBlock block;
  int64_t slice;  ///< channels of all but the last
  const float* a;
  int64_t a_stride;
  int64_t a_step;     ///< from a channel's slice to the next's, for each channel
  const float* b[2];  ///< the panels whose sum is multiplied; the second null for one alone
  float b_sign;
  float* sum;             ///< [slice] of a panel, for the sum
  float* partial;         ///< [rows] of a panel: the product of the slices before
  const float* ahead[2];  ///< the panels of the product after this one
  int destinations;
  Destination to[2];
  int64_t c_stride;
};

/// sum += left * right in the register where sum is. Left to itself GCC 12 copies and spills the
/// accumulators of an unrolled loop.
template <typename T>
PERCEIVER_INLINE void add_in_place(T& sum, T left, T right) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 64) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
    return;
  }
#endif
#if defined(__FMA__)
  if constexpr (sizeof(T) == 32) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(left), "x"(right));
    return;
  }
#endif
  sum = sum + left * right;
}

/// Walks along the channels of one strip of rows.
struct Walker {
  const float* a;
  int64_t a_stride;
  const float* b;
  const float* second;
  float* sum;
};

template <bool kSums, int kRows, int kVectors>
PERCEIVER_INLINE void strassen_step(Walker& at, V sign, V (&sum)[kRows][kVectors]) {
  V right[kVectors];
#pragma GCC unroll 3
  for (int v = 0; v < kVectors; ++v) {
    right[v] = load(at.b + v * kLanes);
    if constexpr (kSums) {
      right[v] = right[v] + sign * load(at.second + v * kLanes);
      store(at.sum + v * kLanes, right[v]);
    }
  }
  at.b += kVectors * kLanes;
  if constexpr (kSums) {
    at.second += kVectors * kLanes;
    at.sum += kVectors * kLanes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const V left = broadcast(at.a[r * at.a_stride]);
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      add_in_place(sum[r][v], left, right[v]);
    }
  }
  ++at.a;
}

template <int kRows, int kVectors>
PERCEIVER_INLINE void write_strip(const PanelProduct& product, int64_t row,
                                  const V (&sum)[kRows][kVectors]) {
  for (int d = 0; d < product.destinations; ++d) {
    const Destination& to = product.to[d];
    float* c = to.c + row * product.c_stride;
    V factor[kVectors], bias[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      factor[v] = load(to.factors + v * kLanes) * to.sign;
      bias[v] = load(to.biases + v * kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        float* at = c + r * product.c_stride + v * kLanes;
        const V before = !to.starts ? load(at) : to.adds ? load(at) + bias[v] : bias[v];
        store(at, before + factor[v] * sum[r][v]);
      }
    }
  }
}

/// One slice of a product: what its strips need to know.
struct Slice {
  int64_t k;
  const float* a;
  const float* b[2];
  bool first, last;
};

template <int kRows, int kVectors>
PERCEIVER_INLINE void add_partial(const float* partial, V (&sum)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] += load(partial + (r * kVectors + v) * kLanes);
    }
  }
}

template <int kRows, int kVectors>
PERCEIVER_INLINE void store_partial(const V (&sum)[kRows][kVectors], float* partial) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      store(partial + (r * kVectors + v) * kLanes, sum[r][v]);
    }
  }
}

/// kRows rows of a slice. While it multiplies it asks for the memory needed next: some lines of
/// `ahead` a stride, and the rows of y that it will write.
template <bool kSums, int kVectors, int kRows>
PERCEIVER_NOINLINE void strassen_strip(const PanelProduct& product, const Slice& slice, int64_t row,
                                       const float* ahead) {
  constexpr int64_t kWidth = kVectors * kLanes;
  Walker at{slice.a + row * product.a_stride, product.a_stride, slice.b[0], slice.b[1],
            product.sum};
  const V sign = broadcast(product.b_sign);
  const float* c[2] = {product.to[0].c + row * product.c_stride,
                       product.to[product.destinations - 1].c + row * product.c_stride};
  int asked = slice.last ? 0 : kRows;
  V sum[kRows][kVectors] = {};
  int64_t left = slice.k;
  for (; left >= kStride; left -= kStride) {
#pragma GCC unroll 6
    for (int line = 0; line < kLinesAhead; ++line) {
      __builtin_prefetch(ahead + line * kLineFloats, 0, 2);
    }
    ahead += kLinesAhead * kLineFloats;
    if (asked < kRows) {
#pragma GCC unroll 3
      for (int64_t column = 0; column < kWidth; column += kLineFloats) {
        __builtin_prefetch(c[0] + column, 1, 3);
        __builtin_prefetch(c[1] + column, 1, 3);
      }
      c[0] += product.c_stride;
      c[1] += product.c_stride;
      ++asked;
    }
#pragma GCC unroll 16
    for (int step = 0; step < kStride; ++step) {
      strassen_step<kSums>(at, sign, sum);
    }
  }
  for (; left > 0; --left) {
    strassen_step<kSums>(at, sign, sum);
  }
  float* partial = product.partial + row * kWidth;
  if (!slice.first) {
    add_partial(partial, sum);
  }
  if (slice.last) {
    write_strip(product, row, sum);
  } else {
    store_partial(sum, partial);
  }
}

/// All rows, in strips of about one height. The first leaves the sum of two panels to the others.
/// @param ahead  what is multiplied next, about as long
template <int kVectors>
inline void multiply_slice(const PanelProduct& product, Slice slice,
                           const float* const (&ahead)[2]) {
  constexpr int kStripRows = kStripSums / kVectors;
  const int64_t strips = (product.rows + kStripRows - 1) / kStripRows;
  const int64_t terms = ahead[1] == nullptr ? 1 : 2;
  const int64_t strips_a_term = (strips + terms - 1) / terms;
  const int64_t asked = slice.k / kStride * kLinesAhead * kLineFloats;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t row = product.rows * s / strips;
    const int64_t count = product.rows * (s + 1) / strips - row;
    const int64_t at = s % strips_a_term * asked;
    const float* next =
        at < slice.k * kVectors * kLanes ? ahead[s / strips_a_term] + at : slice.b[0];
    if (s == 0 && slice.b[1] != nullptr) {
      last_strip<kStripRows>(row, count, [&]<int kRows>(int64_t r) {
        strassen_strip<true, kVectors, kRows>(product, slice, r, next);
      });
      slice.b[0] = product.sum;
    } else {
      last_strip<kStripRows>(row, count, [&]<int kRows>(int64_t r) {
        strassen_strip<false, kVectors, kRows>(product, slice, r, next);
      });
    }
  }
}

template <int kVectors>
inline void multiply_panels(const PanelProduct& product) {
  constexpr int64_t kWidth = kVectors * kLanes;
  const int64_t width = product.block.width;
  for (int64_t first = 0; first < width; first += product.slice) {
    const int64_t end = lesser(first + product.slice, width);
    Slice slice{end - first,
                product.a + first * product.a_step,
                {product.b[0] + first * kWidth, nullptr},
                first == 0,
                end == width};
    const float* ahead[2] = {product.ahead[0], product.ahead[1]};
    if (product.b[1] != nullptr) {
      slice.b[1] = product.b[1] + first * kWidth;
    }
    if (!slice.last) {
      ahead[0] = slice.b[0] + slice.k * kWidth;
      ahead[1] = slice.b[1] == nullptr ? nullptr : slice.b[1] + slice.k * kWidth;
    }
    multiply_slice<kVectors>(product, slice, ahead);
  }
}

/// Rows multiplied by one list of products: `rows` of them from `first`, and, where it takes pairs,
/// as many `apart` behind.
struct RowGroup {
  int64_t first, rows, apart;
};

constexpr unsigned target_bit(const StrassenStep& step, int t) {
  return 1U << static_cast<unsigned>(step.target[t]);
}

/// The quarters of y that steps before `step` of the first block have written, all of later blocks.
template <int kCount>
constexpr unsigned written_before(const StrassenStep (&steps)[kCount], int64_t step,
                                  int64_t block) {
  unsigned written = 0;
  for (int64_t i = 0; i < (block == 0 ? step : kCount); ++i) {
    for (int t = 0; t < steps[i].targets; ++t) {
      written |= target_bit(steps[i], t);
    }
  }
  return written;
}

inline const float* quarter_of_x(const StrassenCall& call, RowGroup group, int quarter) {
  return call.product.x[quarter % 2] +
         (group.first + quarter / 2 * group.apart) * call.product.x_stride;
}

/// Rows that begin pages apart share eight places of the first cache with all else.
inline bool rows_collide(int64_t stride) {
  constexpr int64_t kPageFloats = 1024;
  return stride % kPageFloats == 0;
}

/// Channels of a block of a quarter or a sum of two, as slices [rows][slice] one behind the other.
inline void sum_quarters(const StrassenCall& call, RowGroup group, ChannelBlock block,
                         int64_t slice, const QuarterSum& sum, float* out) {
  const float* one = quarter_of_x(call, group, sum.quarter[0]) + block.first;
  const float* other =
      sum.quarter[1] < 0 ? nullptr : quarter_of_x(call, group, sum.quarter[1]) + block.first;
  for (int64_t r = 0; r < group.rows; ++r) {
    for (int64_t first = 0; first < block.width; first += slice) {
      const int64_t end = lesser(first + slice, block.width);
      float* to = out + first * group.rows + r * slice - first;
      int64_t c = first;
      for (; c + kLanes <= end; c += kLanes) {
        const V left = load(one + c);
        store(to + c, other == nullptr ? left : left + sum.sign * load(other + c));
      }
      for (; c < end; ++c) {
        to[c] = other == nullptr ? one[c] : one[c] + sum.sign * other[c];
      }
    }
    one += call.product.x_stride;
    other += other == nullptr ? 0 : call.product.x_stride;
  }
}

/// Columns of half of the output.
struct ColumnBlock {
  int64_t first, width;
};

inline ColumnBlock columns_of(const StrassenPanels& panels, int64_t panel) {
  const int64_t first = panel_column(panels, panel);
  return {first, panel_column(panels, panel + 1) - first};
}

/// The panels that a step of the list multiplies; the second may be null.
inline void find_panels(const StrassenCall& call, ChannelBlock block, const StrassenStep& step,
                        ColumnBlock columns, const float* (&out)[2]) {
  const float* quarters = call.panels() + 4 * columns.first * call.half_in();
  for (int t = 0; t < 2; ++t) {
    out[t] = step.w.quarter[t] < 0
                 ? nullptr
                 : quarters + (step.w.quarter[t] * call.half_in() + block.first) * columns.width;
  }
}

/// Where the products of a step go. @param before  bits of the quarters of y that hold something
inline void destinations_of(const StrassenCall& call, RowGroup group, const StrassenStep& step,
                            unsigned before, PanelProduct& product) {
  product.destinations = step.targets;
  product.c_stride = call.product.y_stride;
  for (int t = 0; t < step.targets; ++t) {
    const int quarter = step.target[t];
    const int64_t column = quarter % 2 * call.half_out();
    product.to[t] = {
        call.product.y[quarter % 2] + (group.first + quarter / 2 * group.apart) * product.c_stride,
        call.factors() + column,
        call.biases() + column,
        step.sign[t],
        (before & target_bit(step, t)) == 0,
        call.product.accumulate};
  }
}

/// Channels of a slice: a block's as few as may be, of about one size, in whole strides.
inline int64_t slice_of(int64_t width) {
  const int64_t count = (width + kSliceChannels - 1) / kSliceChannels;
  return round_up((width + count - 1) / count, kStride);
}

inline int64_t blocks_of(const StrassenCall& call) {
  return strassen_blocks(call.half_in(), kBlockChannels);
}

inline ChannelBlock channels_of(const StrassenCall& call, int64_t block) {
  const int64_t count = blocks_of(call);
  const int64_t first = call.half_in() * block / count;
  return {first, call.half_in() * (block + 1) / count - first};
}

/// A step of rows as they lie. @param scratch  of a thread: sums of x, the sum of a panel, a
/// partial product
inline PanelProduct product_of(const StrassenCall& call, RowGroup group, ChannelBlock block,
                               const StrassenStep& step, float* scratch) {
  PanelProduct product{};
  product.rows = group.rows;
  product.block = block;
  product.slice = slice_of(block.width);
  product.a = quarter_of_x(call, group, step.x.quarter[0]) + block.first;
  product.a_stride = call.product.x_stride;
  product.a_step = 1;
  product.b_sign = step.w.sign;
  product.sum = scratch + kSumsOfX;
  product.partial = product.sum + kSliceChannels * kPanelWidths.wide;
  return product;
}

/// One panel of a step, whose destinations are those of column 0.
inline void run_panel(const PanelProduct& step, ColumnBlock columns) {
  PanelProduct product = step;
  for (int t = 0; t < product.destinations; ++t) {
    product.to[t].c += columns.first;
    product.to[t].factors += columns.first;
    product.to[t].biases += columns.first;
  }
  if (columns.width == kPanelWidths.wide) {
    multiply_panels<kWideVectors>(product);
  } else {
    multiply_panels<kNarrowVectors>(product);
  }
}

/// One of the seven products, for the pairs of a group.
inline void run_pairs(const StrassenCall& call, const StrassenPart& part, const StrassenPart& next,
                      RowGroup pairs, float* scratch) {
  const StrassenStep& step = kSeven[part.step];
  const ChannelBlock block = channels_of(call, part.block);
  const StrassenPanels panels = panels_of(call.half_out());
  PanelProduct product = product_of(call, pairs, block, step, scratch);
  if (step.x.quarter[1] >= 0 || rows_collide(call.product.x_stride)) {
    if (!part.has_sums) {
      sum_quarters(call, pairs, block, product.slice, step.x, scratch);
    }
    product.a = scratch;
    product.a_stride = product.slice;
    product.a_step = pairs.rows;
  }
  destinations_of(call, pairs, step, written_before(kSeven, part.step, part.block), product);
  for (int64_t panel = part.panels.first; panel < part.panels.end; ++panel) {
    const ColumnBlock columns = columns_of(panels, panel);
    find_panels(call, block, step, columns, product.b);
    if (panel + 1 < part.panels.end) {
      find_panels(call, block, step, columns_of(panels, panel + 1), product.ahead);
    } else {
      find_panels(call, channels_of(call, next.block), kSeven[next.step],
                  columns_of(panels, next.panels.first), product.ahead);
    }
    run_panel(product, columns);
  }
}

/// Rows without a partner, as defined.
inline void run_rest(const StrassenCall& call, PanelRange panels, RowGroup rest, float* scratch) {
  const StrassenPanels all = panels_of(call.half_out());
  for (int64_t index = 0; index < blocks_of(call); ++index) {
    const ChannelBlock block = channels_of(call, index);
    for (int64_t i = 0; i < 4; ++i) {
      PanelProduct product = product_of(call, rest, block, kPlain[i], scratch);
      destinations_of(call, rest, kPlain[i], written_before(kPlain, i, index), product);
      for (int64_t panel = panels.first; panel < panels.end; ++panel) {
        const ColumnBlock columns = columns_of(all, panel);
        find_panels(call, block, kPlain[i], columns, product.b);
        product.ahead[0] = product.b[0];
        run_panel(product, columns);
      }
    }
  }
}

inline void activate_panels(const StrassenCall& call, RowRange rows, PanelRange panels) {
  const StrassenPanels all = panels_of(call.half_out());
  const int64_t first = panel_column(all, panels.first);
  for (int n = 0; n < 2 && call.product.activation; ++n) {
    activate_rows_of(rows, panel_column(all, panels.end) - first, call.product.y[n] + first,
                     call.product.y_stride, nullptr, *call.product.activation);
  }
}

inline void run_strassen(const StrassenCall& call, const StrassenPart& part,
                         const StrassenPart& next, float* scratch) {
  const StrassenGroup group = strassen_group(call.product.rows, part.group);
  const int64_t behind = group.first + 2 * group.pairs;
  if (group.pairs > 0) {
    run_pairs(call, part, next, {group.first, group.pairs, group.pairs}, scratch);
  }
  if (part.step + 1 == kSteps && part.block + 1 == blocks_of(call)) {
    if (group.rest > 0) {
      run_rest(call, part.panels, {behind, group.rest, 0}, scratch);
    }
    activate_panels(call, {group.first, behind + group.rest}, part.panels);
  }
}

constexpr StrassenKernel kStrassen = {
    .panel = kPanelWidths,
    .block_channels = kBlockChannels,
    .block_panels = kBlockColumns / kPanelWidths.wide,
    .steps = kSteps,
    .scratch = kSumsOfX + (kSliceChannels + kStrassenGroup / 2) * kPanelWidths.wide,
    .pack = pack_strassen,
    .transpose = transpose_rows,
    .run = run_strassen,
};

}  // namespace
}  // namespace perceiver::kernels
