#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/matrix.h"

namespace perceiver::runtime {

/// body(i) for every row, on all threads where there is enough to do.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, const Body& body) {
  constexpr int64_t kWorthThreads = int64_t{1} << 15;
#pragma omp parallel for schedule(static) if (rows * columns >= kWorthThreads)
  for (int64_t i = 0; i < rows; ++i) {
    body(i);
  }
}

/// Copies the columns that both have into all rows of `to`; columns of `to` beyond are zero.
inline void copy_matrix(ConstMatrix from, Matrix to) {
  const int64_t both = std::min(from.columns, to.columns);
  for_rows(to.rows, to.columns, [&](int64_t i) {
    std::fill(std::copy_n(from.row(i), both, to.row(i)), to.row(i) + to.columns, 0.0F);
  });
}

}  // namespace perceiver::runtime
