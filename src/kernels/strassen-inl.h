#pragma once

#include "kernels/rows-inl.h"
#include "kernels/strassen_kernel.h"
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
/// Columns of half an output for which the sums of x are made: more would leave the second cache.
constexpr int64_t kBlockColumns = 512;
/// Steps of the inner loop between two looks ahead.
constexpr int64_t kStride = 16;
/// Cache lines asked for in each, so that all strips together ask for two panels.
constexpr int kLinesAhead = kLanes == 16 ? 6 : 2;
constexpr int64_t kLineFloats = 16;
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
  float* sum;             ///< [slice][kPanel], for the sum
  float* partial;         ///< [rows][kPanel]: the product of the slices before
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

template <int kRows, bool kSums>
PERCEIVER_INLINE void strassen_step(Walker& at, V sign, V (&sum)[kRows][2]) {
  V right[2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    right[v] = load(at.b + v * kLanes);
    if constexpr (kSums) {
      right[v] = right[v] + sign * load(at.second + v * kLanes);
      store(at.sum + v * kLanes, right[v]);
    }
  }
  at.b += kPanel;
  if constexpr (kSums) {
    at.second += kPanel;
    at.sum += kPanel;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const V left = broadcast(at.a[r * at.a_stride]);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      add_in_place(sum[r][v], left, right[v]);
    }
  }
  ++at.a;
}

template <int kRows>
PERCEIVER_INLINE void write_strip(const PanelProduct& product, int64_t row,
                                  const V (&sum)[kRows][2]) {
  for (int d = 0; d < product.destinations; ++d) {
    const Destination& to = product.to[d];
    float* c = to.c + row * product.c_stride;
    const V factor[2] = {load(to.factors) * to.sign, load(to.factors + kLanes) * to.sign};
    const V bias[2] = {load(to.biases), load(to.biases + kLanes)};
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
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

template <int kRows>
PERCEIVER_INLINE void add_partial(const float* partial, V (&sum)[kRows][2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      sum[r][v] += load(partial + r * kPanel + v * kLanes);
    }
  }
}

template <int kRows>
PERCEIVER_INLINE void store_partial(const V (&sum)[kRows][2], float* partial) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      store(partial + r * kPanel + v * kLanes, sum[r][v]);
    }
  }
}

/// kRows rows of a slice. While it multiplies it asks for the memory needed next: some lines of
/// `ahead` a stride, and the rows of y that it will write.
template <int kRows, bool kSums>
PERCEIVER_NOINLINE void strassen_strip(const PanelProduct& product, const Slice& slice, int64_t row,
                                       const float* ahead) {
  Walker at{slice.a + row * product.a_stride, product.a_stride, slice.b[0], slice.b[1],
            product.sum};
  const V sign = broadcast(product.b_sign);
  const float* c[2] = {product.to[0].c + row * product.c_stride,
                       product.to[product.destinations - 1].c + row * product.c_stride};
  int asked = slice.last ? 0 : kRows;
  V sum[kRows][2] = {};
  int64_t left = slice.k;
  for (; left >= kStride; left -= kStride) {
#pragma GCC unroll 6
    for (int line = 0; line < kLinesAhead; ++line) {
      __builtin_prefetch(ahead + line * kLineFloats, 0, 2);
    }
    ahead += kLinesAhead * kLineFloats;
    if (asked < kRows) {
      __builtin_prefetch(c[0], 1, 3);
      __builtin_prefetch(c[1], 1, 3);
      c[0] += product.c_stride;
      c[1] += product.c_stride;
      ++asked;
    }
#pragma GCC unroll 16
    for (int step = 0; step < kStride; ++step) {
      strassen_step<kRows, kSums>(at, sign, sum);
    }
  }
  for (; left > 0; --left) {
    strassen_step<kRows, kSums>(at, sign, sum);
  }
  float* partial = product.partial + row * kPanel;
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
inline void multiply_slice(const PanelProduct& product, Slice slice,
                           const float* const (&ahead)[2]) {
  const int64_t strips = (product.rows + kTileRows - 1) / kTileRows;
  const int64_t terms = ahead[1] == nullptr ? 1 : 2;
  const int64_t strips_a_term = (strips + terms - 1) / terms;
  const int64_t asked = slice.k / kStride * kLinesAhead * kLineFloats;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t row = product.rows * s / strips;
    const int64_t count = product.rows * (s + 1) / strips - row;
    const int64_t at = s % strips_a_term * asked;
    const float* next = at < slice.k * kPanel ? ahead[s / strips_a_term] + at : slice.b[0];
    if (s == 0 && slice.b[1] != nullptr) {
      last_strip<kTileRows>(row, count, [&]<int kRows>(int64_t r) {
        strassen_strip<kRows, true>(product, slice, r, next);
      });
      slice.b[0] = product.sum;
    } else {
      last_strip<kTileRows>(row, count, [&]<int kRows>(int64_t r) {
        strassen_strip<kRows, false>(product, slice, r, next);
      });
    }
  }
}

inline void multiply_panels(const PanelProduct& product) {
  const int64_t width = product.block.width;
  for (int64_t first = 0; first < width; first += product.slice) {
    const int64_t end = lesser(first + product.slice, width);
    Slice slice{end - first,
                product.a + first * product.a_step,
                {product.b[0] + first * kPanel, nullptr},
                first == 0,
                end == width};
    const float* ahead[2] = {product.ahead[0], product.ahead[1]};
    if (product.b[1] != nullptr) {
      slice.b[1] = product.b[1] + first * kPanel;
    }
    if (!slice.last) {
      ahead[0] = slice.b[0] + slice.k * kPanel;
      ahead[1] = slice.b[1] == nullptr ? nullptr : slice.b[1] + slice.k * kPanel;
    }
    multiply_slice(product, slice, ahead);
  }
}

/// Rows multiplied by one list of products: `rows` of them from `first`, and, where it takes pairs,
/// as many `apart` behind.
struct RowGroup {
  int64_t first, rows, apart;
};

inline const float* quarter_of_x(const StrassenCall& call, RowGroup group, int quarter) {
  return call.product.x[quarter % 2] +
         (group.first + quarter / 2 * group.apart) * call.product.x_stride;
}

/// Channels [first, end) of a sum, as slices [rows][slice] one behind the other.
inline void sum_quarters(const StrassenCall& call, RowGroup group, ChannelBlock block,
                         int64_t slice, const QuarterSum& sum, float* out) {
  const float* one = quarter_of_x(call, group, sum.quarter[0]) + block.first;
  const float* other = quarter_of_x(call, group, sum.quarter[1]) + block.first;
  for (int64_t r = 0; r < group.rows; ++r) {
    for (int64_t first = 0; first < block.width; first += slice) {
      const int64_t end = lesser(first + slice, block.width);
      float* to = out + first * group.rows + r * slice - first;
      int64_t c = first;
      for (; c + kLanes <= end; c += kLanes) {
        store(to + c, load(one + c) + sum.sign * load(other + c));
      }
      for (; c < end; ++c) {
        to[c] = one[c] + sum.sign * other[c];
      }
    }
    one += call.product.x_stride;
    other += call.product.x_stride;
  }
}

/// The panels that a step of the list multiplies; the second may be null.
inline void panels_of(const StrassenCall& call, ChannelBlock block, const StrassenStep& step,
                      int64_t panel, const float* (&out)[2]) {
  const float* quarters = call.panels() + 4 * panel * kPanel * call.half_in();
  for (int t = 0; t < 2; ++t) {
    out[t] = step.w.quarter[t] < 0
                 ? nullptr
                 : quarters + (step.w.quarter[t] * call.half_in() + block.first) * kPanel;
  }
}

/// Where the products of a step go. @param touched  bits of the quarters of y that hold something
inline void destinations_of(const StrassenCall& call, RowGroup group, const StrassenStep& step,
                            unsigned& touched, PanelProduct& product) {
  product.destinations = step.targets;
  product.c_stride = call.product.y_stride;
  for (int t = 0; t < step.targets; ++t) {
    const int quarter = step.target[t];
    const int64_t column = quarter % 2 * call.half_out();
    const unsigned bit = 1U << static_cast<unsigned>(quarter);
    product.to[t] = {
        call.product.y[quarter % 2] + (group.first + quarter / 2 * group.apart) * product.c_stride,
        call.factors() + column,
        call.biases() + column,
        step.sign[t],
        (touched & bit) == 0,
        call.product.accumulate};
    touched |= bit;
  }
}

/// One step of the list over some panels.
inline void run_step(const StrassenCall& call, const StrassenStep& step, const StrassenStep* next,
                     PanelRange panels, const PanelProduct& product) {
  const ChannelBlock block = product.block;
  for (int64_t panel = panels.first; panel < panels.end; ++panel) {
    PanelProduct here = product;
    panels_of(call, block, step, panel, here.b);
    if (panel + 1 < panels.end) {
      panels_of(call, block, step, panel + 1, here.ahead);
    } else if (next != nullptr) {
      panels_of(call, block, *next, panels.first, here.ahead);
    } else {
      here.ahead[0] = here.b[0];
      here.ahead[1] = nullptr;
    }
    for (int t = 0; t < here.destinations; ++t) {
      here.to[t].c += panel * kPanel;
      here.to[t].factors += panel * kPanel;
      here.to[t].biases += panel * kPanel;
    }
    multiply_panels(here);
  }
}

/// Channels of a slice: a block's as few as may be, of about one size, in whole strides.
inline int64_t slice_of(int64_t width) {
  const int64_t count = (width + kSliceChannels - 1) / kSliceChannels;
  return round_up((width + count - 1) / count, kStride);
}

/// @param scratch  of a thread: sums of x, the sum of a panel, a partial product
template <int kSteps>
inline void run_steps(const StrassenCall& call, const StrassenStep (&steps)[kSteps], RowGroup group,
                      PanelRange panels, float* scratch) {
  unsigned touched = 0;
  for (int64_t first = 0; first < call.half_in(); first += kBlockChannels) {
    PanelProduct product{};
    product.rows = group.rows;
    product.block = {first, lesser(kBlockChannels, call.half_in() - first)};
    product.slice = slice_of(product.block.width);
    product.sum = scratch + kSumsOfX;
    product.partial = product.sum + kSliceChannels * kPanel;
    for (int i = 0; i < kSteps; ++i) {
      product.b_sign = steps[i].w.sign;
      product.a = quarter_of_x(call, group, steps[i].x.quarter[0]) + first;
      product.a_stride = call.product.x_stride;
      product.a_step = 1;
      if (steps[i].x.quarter[1] >= 0) {
        sum_quarters(call, group, product.block, product.slice, steps[i].x, scratch);
        product.a = scratch;
        product.a_stride = product.slice;
        product.a_step = group.rows;
      }
      destinations_of(call, group, steps[i], touched, product);
      run_step(call, steps[i], i + 1 < kSteps ? &steps[i + 1] : nullptr, panels, product);
    }
  }
}

inline void activate_panels(const StrassenCall& call, RowRange rows, PanelRange panels) {
  for (int n = 0; n < 2 && call.product.activation; ++n) {
    activate_rows_of(rows, (panels.end - panels.first) * kPanel,
                     call.product.y[n] + panels.first * kPanel, call.product.y_stride, nullptr,
                     *call.product.activation);
  }
}

/// Pairs of a group's rows [pairs.first, pairs.end), and its rest.
inline void run_group(const StrassenCall& call, const StrassenGroup& group, RowRange pairs,
                      bool rest, PanelRange panels, float* scratch) {
  const int64_t second = group.first + group.pairs, behind = second + group.pairs;
  if (pairs.first < pairs.end) {
    run_steps(call, kSeven, {group.first + pairs.first, pairs.end - pairs.first, group.pairs},
              panels, scratch);
    activate_panels(call, {group.first + pairs.first, group.first + pairs.end}, panels);
    activate_panels(call, {second + pairs.first, second + pairs.end}, panels);
  }
  if (rest) {
    run_steps(call, kPlain, {behind, group.rest, 0}, panels, scratch);
    activate_panels(call, {behind, behind + group.rest}, panels);
  }
}

inline void run_strassen(const StrassenCall& call, const StrassenShare& share, float* scratch) {
  const int64_t wide = kBlockColumns / kPanel;
  for (int64_t first = share.panels.first; first < share.panels.end; first += wide) {
    const PanelRange block{first, lesser(first + wide, share.panels.end)};
    for_groups(call.product.rows, share,
               [&](const StrassenGroup& group, RowRange pairs, bool rest) {
                 run_group(call, group, pairs, rest, block, scratch);
               });
  }
}

constexpr StrassenKernel kStrassen = {
    .panel = kPanel,
    .scratch = kSumsOfX + (kSliceChannels + kStrassenGroup / 2) * kPanel,
    .run = run_strassen,
};

}  // namespace
}  // namespace perceiver::kernels
