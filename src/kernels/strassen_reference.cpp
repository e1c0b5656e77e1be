#include <cmath>

#include "kernels/rows_reference.h"
#include "kernels/strassen_kernel.h"

namespace perceiver::kernels {
namespace {

constexpr int64_t kPanelColumns = 1;

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

void run(const StrassenCall& call, const StrassenShare& share, float* /*scratch*/) {
  for_groups(call.product.rows, share, [&](const StrassenGroup& group, RowRange pairs, bool rest) {
    const int64_t second = group.first + group.pairs, behind = second + group.pairs;
    run_rows(call, {group.first + pairs.first, group.first + pairs.end}, share.panels);
    run_rows(call, {second + pairs.first, second + pairs.end}, share.panels);
    if (rest) {
      run_rows(call, {behind, behind + group.rest}, share.panels);
    }
  });
}

}  // namespace

const StrassenKernel kStrassenReference = {.panel = kPanelColumns, .scratch = 0, .run = run};

}  // namespace perceiver::kernels
