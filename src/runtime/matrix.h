#pragma once

#include <cstdint>

namespace perceiver::runtime {

/// Rows of float32 in memory somebody else owns.
struct Matrix {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  ///< elements from row to row

  float* row(int64_t i) const { return data + i * stride; }
  Matrix block(int64_t begin, int64_t end) const {
    return {data + begin * stride, end - begin, columns, stride};
  }
  Matrix slice(int64_t first, int64_t width) const { return {data + first, rows, width, stride}; }
};

struct ConstMatrix {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;

  ConstMatrix() = default;
  ConstMatrix(const float* first, int64_t count, int64_t width, int64_t step)
      : data(first), rows(count), columns(width), stride(step) {}
  ConstMatrix(const Matrix& m)  // NOLINT(google-explicit-constructor): reading what one may write
      : data(m.data), rows(m.rows), columns(m.columns), stride(m.stride) {}
  const float* row(int64_t i) const { return data + i * stride; }
  ConstMatrix block(int64_t begin, int64_t end) const {
    return {data + begin * stride, end - begin, columns, stride};
  }
  ConstMatrix slice(int64_t first, int64_t width) const {
    return {data + first, rows, width, stride};
  }
};

}  // namespace perceiver::runtime
