#pragma once

#include <cstdint>

#include "perceiver/kernels/strassen.h"

// Between strassen.cpp, which packs and starts threads, and the kernels of each instruction set.
//
// A packed weight W^T [in, out] is cut into quarters: 2 * h + n is half h of `in`, half n of `out`.
// Panels of `panel` columns of half an output follow each other, each the four quarters' [in / 2]
// [panel]. Then come `out` factors and `out` biases. Columns are divided by powers of two that
// bring them to one size, for the seven products mix them: a large column would drown a small one.

namespace perceiver::kernels {

/// The rows of a group of its own: more would not stay in the second cache as sums of halves.
constexpr int64_t kStrassenGroup = 256;
/// The fewest rows worth halving.
constexpr int64_t kStrassenRows = 64;

struct StrassenCall {
  const StrassenWeight& weight;
  const StrassenProduct& product;

  int64_t half_in() const { return weight.in / 2; }
  int64_t half_out() const { return weight.out / 2; }
  const float* panels() const { return weight.packed; }
  const float* factors() const { return weight.packed + weight.in * weight.out; }
  const float* biases() const { return factors() + weight.out; }
};

struct PanelRange {
  int64_t first, end;
};

/// Rows that the seven products pair, and what is left of them.
struct StrassenGroup {
  int64_t first, pairs;  ///< row first + i with row first + pairs + i
  int64_t rest;          ///< rows behind them, multiplied as defined

  /// What is divided among threads.
  int64_t units() const { return pairs > 0 ? pairs : 1; }
};

// Static: a copy compiled for one instruction set must not stand in for that of another.

/// Groups of about one size. @param index  below strassen_groups(rows)
static inline int64_t strassen_groups(int64_t rows) {
  return (rows + kStrassenGroup - 1) / kStrassenGroup;
}
static inline StrassenGroup strassen_group(int64_t rows, int64_t index) {
  const int64_t groups = strassen_groups(rows);
  const int64_t first = rows * index / groups, count = rows * (index + 1) / groups - first;
  const int64_t pairs = count >= kStrassenRows ? count / 2 : 0;
  return {first, pairs, count - 2 * pairs};
}

/// A share of a call: some units of all groups, counted through, and some panels.
struct StrassenShare {
  int64_t first_unit, end_unit;
  PanelRange panels;
};

struct RowRange {
  int64_t first, end;
};

/// call(group, its pairs of this share, whether its rest is the share's) for the groups of a share.
template <typename Call>
static inline void for_groups(int64_t rows, const StrassenShare& share, const Call& call) {
  int64_t base = 0;
  for (int64_t index = 0; index < strassen_groups(rows); ++index) {
    const StrassenGroup group = strassen_group(rows, index);
    const int64_t units = group.units();
    const int64_t first = share.first_unit > base ? share.first_unit - base : 0;
    const int64_t end = share.end_unit - base < units ? share.end_unit - base : units;
    if (first < end) {
      call(group, RowRange{first, end < group.pairs ? end : group.pairs},
           end == units && group.rest > 0);
    }
    base += units;
  }
}

struct StrassenKernel {
  int64_t panel;    ///< columns
  int64_t scratch;  ///< floats for each thread
  /// @param scratch  64-byte aligned
  void (*run)(const StrassenCall& call, const StrassenShare& share, float* scratch);
};

/// As defined, in double.
extern const StrassenKernel kStrassenReference;

}  // namespace perceiver::kernels
