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

struct StrassenKernel {
  int64_t panel;    ///< columns
  int64_t scratch;  ///< floats for each thread
  /// All rows of some panels. @param scratch  64-byte aligned
  void (*run)(const StrassenCall& call, PanelRange panels, float* scratch);
};

/// As defined, in double.
extern const StrassenKernel kStrassenReference;

}  // namespace perceiver::kernels
