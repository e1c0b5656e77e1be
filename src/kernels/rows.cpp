#include "perceiver/kernels/rows.h"

#include <algorithm>
#include <omp.h>

#include "kernels/kernel_table.h"
#include "kernels/rows_reference.h"

namespace perceiver::kernels {
namespace {

/// Floats below which another thread is not worth starting.
constexpr int64_t kLeastFloats = 16384;

/// f(range) over [0, rows), split evenly.
template <typename F>
void for_each_range(int64_t rows, int64_t width, int threads, F f) {
  if (rows == 0) {
    return;
  }
  const int64_t wanted = threads > 0 ? threads : omp_get_max_threads();
  const int64_t parts = std::clamp<int64_t>(rows * width / kLeastFloats, 1, std::min(wanted, rows));
  if (parts <= 1) {
    f(RowRange{0, rows});
    return;
  }
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(parts))
  for (int64_t part = 0; part < parts; ++part) {
    f(RowRange{rows * part / parts, rows * (part + 1) / parts});
  }
}

}  // namespace

void normalise_rows(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    float* out, int64_t out_stride, int threads) {
  normalise_rows(rows, width, x, x_stride, eps, {out, out_stride, std::max<int64_t>(width, 1), 0},
                 threads);
}

void normalise_rows(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    const PartedRows& out, int threads) {
  const KernelTable* kernels = active_table();
  const auto run = kernels == nullptr ? normalise_rows_reference : kernels->normalise_rows;
  for_each_range(rows, width, threads,
                 [=](RowRange range) { run(range, width, x, x_stride, eps, out); });
}

void row_statistics(int64_t rows, int64_t width, const float* x, int64_t x_stride, float eps,
                    float* mean, float* inverse_deviation, int threads) {
  const KernelTable* kernels = active_table();
  const auto run = kernels == nullptr ? row_statistics_reference : kernels->row_statistics;
  for_each_range(rows, width, threads, [=](RowRange range) {
    run(range, width, x, x_stride, eps, mean, inverse_deviation);
  });
}

void activate_rows(int64_t rows, int64_t width, float* x, int64_t stride, const float* bias,
                   Activation activation, int threads) {
  const KernelTable* kernels = active_table();
  const auto run = kernels == nullptr ? activate_rows_reference : kernels->activate_rows;
  for_each_range(rows, width, threads,
                 [=](RowRange range) { run(range, width, x, stride, bias, activation); });
}

}  // namespace perceiver::kernels
