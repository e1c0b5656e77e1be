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

void run(const StrassenCall& call, PanelRange panels, float* /*scratch*/) {
  const StrassenProduct& product = call.product;
  for (int64_t half = 0; half < 2; ++half) {
    for (int64_t row = 0; row < product.rows; ++row) {
      float* y = product.y[half] + row * product.y_stride;
      for (int64_t n = panels.first; n < panels.end; ++n) {
        const double value = element(call, row, half, n);
        y[n] = static_cast<float>(product.accumulate ? static_cast<double>(y[n]) + value : value);
      }
    }
    if (product.activation) {
      activate_rows_reference({0, product.rows}, panels.end - panels.first,
                              product.y[half] + panels.first, product.y_stride, nullptr,
                              *product.activation);
    }
  }
}

}  // namespace

const StrassenKernel kStrassenReference = {.panel = kPanelColumns, .scratch = 0, .run = run};

}  // namespace perceiver::kernels
