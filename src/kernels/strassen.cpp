#include "perceiver/kernels/strassen.h"

#include <algorithm>
#include <cmath>
#include <omp.h>

#include "kernels/kernel_table.h"
#include "kernels/scratch.h"
#include "kernels/strassen_kernel.h"

namespace perceiver::kernels {
namespace {

/// Columns of half an output: whole panels with every set of kernels.
constexpr int64_t kWidestPanel = 32;
/// The fewest pairs of rows for which a thread makes the sums of the weights again: a group's.
constexpr int64_t kSharePairs = kStrassenGroup / 2;

/// The power of two next to a row's root mean square; 0 for a row of zeros, 1 for what is no
/// number.
float size_of(const float* row, int64_t width) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) {
    squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  }
  if (squares == 0) {
    return 0;
  }
  const double size = std::sqrt(squares / static_cast<double>(width));
  if (!std::isfinite(size)) {
    return 1;
  }
  // so that it and its inverse are normal numbers
  return static_cast<float>(std::exp2(std::clamp(std::round(std::log2(size)), -126.0, 126.0)));
}

/// out [in / 2][panel] = columns of half of `in`, which are rows of the weight; a few at a time, so
/// that what is written stays in the first cache.
void pack_quarter(const float* weight, int64_t in, int64_t panel, const float* factors,
                  float* out) {
  constexpr int64_t kAtOnce = 256;
  const int64_t half = in / 2;
  for (int64_t begin = 0; begin < half; begin += kAtOnce) {
    const int64_t end = std::min(begin + kAtOnce, half);
    for (int64_t c = 0; c < panel; ++c) {
      const float* column = weight + c * in;
      const float inverse = factors[c] == 0 ? 0 : 1 / factors[c];
      for (int64_t k = begin; k < end; ++k) {
        out[k * panel + c] = column[k] * inverse;
      }
    }
  }
}

int64_t count_units(int64_t rows) {
  int64_t units = 0;
  for (int64_t group = 0; group < strassen_groups(rows); ++group) {
    units += strassen_group(rows, group).units();
  }
  return units;
}

/// Into how many parts rows are divided among threads, columns into the rest: rows first, for then
/// no sum of rows is made twice.
int64_t row_shares(int64_t threads, int64_t units) {
  const int64_t most = std::max<int64_t>(units / kSharePairs, 1);
  for (int64_t shares = std::min(threads, most); shares > 1; --shares) {
    if (threads % shares == 0) {
      return shares;
    }
  }
  return 1;
}

}  // namespace

bool strassen_takes(int64_t in, int64_t out) {
  return in > 0 && out > 0 && in % 2 == 0 && out % (2 * kWidestPanel) == 0;
}

int64_t strassen_floats(int64_t in, int64_t out) {
  return (in + 2) * out;
}

const StrassenKernel* strassen_kernel() {
  const KernelTable* table = active_table();
  return table == nullptr ? &kStrassenReference : &table->strassen;
}

StrassenWeight strassen_pack(int64_t in, int64_t out, const float* weight, const float* bias,
                             float* packed, const StrassenKernel* kernel) {
  float* factors = packed + in * out;
  float* biases = factors + out;
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; ++o) {
    factors[o] = size_of(weight + o * in, in);
    biases[o] = bias == nullptr ? 0 : bias[o];
  }
  const int64_t half_in = in / 2, half_out = out / 2, panel = kernel->panel;
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < half_out; first += panel) {
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      const int64_t column = quarter % 2 * half_out + first;
      pack_quarter(weight + column * in + quarter / 2 * half_in, in, panel, factors + column,
                   packed + (4 * first + quarter * panel) * half_in);
    }
  }
  return {in, out, packed, kernel};
}

void strassen_multiply(const StrassenWeight& weight, const StrassenProduct& product) {
  if (product.rows == 0) {
    return;
  }
  const StrassenKernel& kernel = *weight.kernel;
  const int64_t panels = weight.out / 2 / kernel.panel;
  const int64_t units = count_units(product.rows);
  const int64_t threads = product.threads > 0 ? product.threads : omp_get_max_threads();
  const int64_t by_rows = row_shares(threads, units);
  const int64_t by_columns = std::clamp<int64_t>(threads / by_rows, 1, panels);
  const int64_t shares = by_rows * by_columns;
  const int64_t floats = (kernel.scratch + 15) / 16 * 16;
  float* scratch = thread_scratch(ScratchUse::kTiles, shares * floats);
  const StrassenCall call{weight, product};
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(shares)) if (shares > 1)
  for (int64_t share = 0; share < shares; ++share) {
    const int64_t r = share / by_columns, c = share % by_columns;
    kernel.run(call,
               {units * r / by_rows,
                units * (r + 1) / by_rows,
                {panels * c / by_columns, panels * (c + 1) / by_columns}},
               scratch + share * floats);
  }
}

}  // namespace perceiver::kernels
