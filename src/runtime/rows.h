#pragma once

#include <cstdint>

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

}  // namespace perceiver::runtime
