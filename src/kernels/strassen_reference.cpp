#include <cmath>

#include "kernels/rows_reference.h"
#include "kernels/strassen_kernel.h"

namespace perceiver::kernels {
namespace {

constexpr int64_t kAll = int64_t{1} << 40;

/// Column n of half `half` of the output, at one row.
double element(const StrassenCall& call, int64_t row, int64_t half, int64_t n) {
  const StrassenProduct& product = call.product;
  double sum = 0;
  for (int64_t h = 0; h < 2; ++h) {
    const float* x = product.x[h] + row * product.x_stride;
    const float* w = call.panels() + (4 * n + 2 * h + half) * call.half_in();
    for (int64_t k = 0; k < call.half_in(); ++k) {
      sum += static_cast<double>(x[k]) * static_cast<double>(w[k]);
    }
  }
  const int64_t column = half * call.half_out() + n;
  return sum * static_cast<double>(call.factors()[column]) +
         static_cast<double>(call.biases()[column]);
}

void run_rows(const StrassenCall& call, RowRange rows, PanelRange panels) {
  const StrassenProduct& product = call.product;
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t row = rows.first; row < rows.end; ++row) {
      float* y = product.y[half] + row * product.y_stride;
      for (int64_t n = panels.first; n < panels.end; ++n) {
        const double value = element(call, row, half, n);
        y[n] = static_cast<float>(product.accumulate ? static_cast<double>(y[n]) + value : value);
      }
    }
    if (product.activation) {
      activate_rows_reference(rows, panels.end - panels.first, product.y[half] + panels.first,
                              product.y_stride, nullptr, *product.activation);
    }
  }
}

void run(const StrassenCall& call, const StrassenPart& part, const StrassenPart& /*next*/,
         float* /*scratch*/) {
  const StrassenGroup group = strassen_group(call.product.rows, part.group);
  run_rows(call, {group.first, group.first + 2 * group.pairs + group.rest}, part.panels);
}

void pack(const StrassenSource& source, PanelRange panels, float* packed) {
  const int64_t half_in = source.in / 2, half_out = source.out / 2;
  for (int64_t n = panels.first; n < panels.end; ++n) {
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      const int64_t column = quarter % 2 * half_out + n;
      packed[source.in * source.out + column] = 1;
      for (int64_t k = 0; k < half_in; ++k) {
        packed[(4 * n + quarter) * half_in + k] =
            source.weight.at(quarter / 2 * half_in + k, column);
      }
    }
  }
}

void transpose(const Transposition& move, RowRange rows) {
  for (int64_t r = rows.first; r < rows.end; ++r) {
    for (int64_t c = 0; c < move.columns; ++c) {
      move.to[r * move.to_stride + c] = move.from[c * move.from_stride + r];
    }
  }
}

}  // namespace

const StrassenKernel kStrassenReference = {.panel = {1, 1},
                                           .block_channels = kAll,
                                           .block_panels = kAll,
                                           .steps = 1,
                                           .scratch = 0,
                                           .pack = pack,
                                           .transpose = transpose,
                                           .run = run};

}  // namespace perceiver::kernels
