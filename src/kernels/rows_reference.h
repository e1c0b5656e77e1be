#pragma once

#include "kernels/kernel_table.h"

namespace perceiver::kernels {

/// rows.h as plain loops in double: the oracle of the kernels, and the "reference" set.
void row_statistics_reference(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, float* mean, float* inverse_deviation);
void normalise_rows_reference(RowRange rows, int64_t width, const float* x, int64_t x_stride,
                              float eps, const PartedRows& out);
void activate_rows_reference(RowRange rows, int64_t width, float* x, int64_t stride,
                             const float* bias, Activation activation);
double activation_reference(double x, Activation activation);

}  // namespace perceiver::kernels
