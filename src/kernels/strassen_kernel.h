#pragma once

#include <cstdint>

#include "perceiver/kernels/strassen.h"

// Between strassen.cpp, which packs and starts threads, and the kernels of each instruction set.
//
// A packed weight W^T [in, out] is cut into quarters: 2 * h + n is half h of `in`, half n of `out`.
// Panels of columns of half an output follow each other, each the four quarters' [in / 2][width].
// Then come `out` factors and `out` biases. Columns are divided by powers of two that
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

/// Columns of the panels of a kernel.
struct PanelWidths {
  int64_t wide, narrow;
};

/// The columns of half an output as panels: wide ones, then the fewest narrow ones that make them
/// come out even.
struct StrassenPanels {
  PanelWidths widths;
  int64_t wide, count;
};

/// Rows that the seven products pair, and what is left of them.
struct StrassenGroup {
  int64_t first, pairs;  ///< row first + i with row first + pairs + i
  int64_t rest;          ///< rows behind them, multiplied as defined
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

/// @param half_out  a multiple of the narrow width
static inline StrassenPanels strassen_panels(PanelWidths widths, int64_t half_out) {
  int64_t narrow = 0;
  while ((half_out - narrow * widths.narrow) % widths.wide != 0) {
    ++narrow;
  }
  const int64_t wide = (half_out - narrow * widths.narrow) / widths.wide;
  return {widths, wide, wide + narrow};
}
/// The first column of a panel.
static inline int64_t panel_column(const StrassenPanels& panels, int64_t panel) {
  const int64_t narrow = panel > panels.wide ? panel - panels.wide : 0;
  return (panel - narrow) * panels.widths.wide + narrow * panels.widths.narrow;
}

/// Blocks of channels of half of `in`.
static inline int64_t strassen_blocks(int64_t half_in, int64_t block_channels) {
  return (half_in + block_channels - 1) / block_channels;
}

/// What one thread does at a time: a step of the products of one block of channels, for a group of
/// rows and some panels. The parts of a panel follow each other; the last one finishes it.
struct StrassenPart {
  int64_t group, block, step;
  PanelRange panels;
  bool has_sums;  ///< the thread's scratch holds those of this group, block and step
};

struct RowRange {
  int64_t first, end;
};

/// A weight [in, out] before it is packed.
struct StrassenSource {
  int64_t in, out;
  StridedMatrix weight;
};

/// to[r * to_stride + c] = from[c * from_stride + r].
struct Transposition {
  int64_t columns;  ///< of `to`
  const float* from;
  int64_t from_stride;
  float* to;
  int64_t to_stride;
};

struct StrassenKernel {
  PanelWidths panel;
  int64_t block_channels;  ///< of half of `in`
  int64_t block_panels;    ///< those that all steps pass over before the next ones
  int64_t steps;           ///< of each block of channels
  int64_t scratch;         ///< floats for each thread
  /// Writes panels and their factors.
  void (*pack)(const StrassenSource& source, PanelRange panels, float* packed);
  /// Rows of `to`.
  void (*transpose)(const Transposition& move, RowRange rows);
  /// @param next     what the thread will probably do then, of the same group
  /// @param scratch  of the thread, 64-byte aligned
  void (*run)(const StrassenCall& call, const StrassenPart& part, const StrassenPart& next,
              float* scratch);
};

/// As defined, in double.
extern const StrassenKernel kStrassenReference;

}  // namespace perceiver::kernels
