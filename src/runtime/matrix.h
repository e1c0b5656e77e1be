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

/// A matrix whose columns lie in parts of `width`, each with rows of its own: what Linear takes
/// without a copy where it adds up its input in parts.
template <typename M>
struct InParts {
  InParts(M first_part, int64_t all_columns, int64_t between)
      : first(first_part), columns(all_columns), step(between) {}
  template <typename Other>
  // NOLINTNEXTLINE(google-explicit-constructor): as a Matrix to a ConstMatrix
  InParts(const InParts<Other>& other)
      : first(other.first), columns(other.columns), step(other.step) {}

  M first;  ///< the first part's rows; of all parts the same
  int64_t columns = 0;
  int64_t step = 0;  ///< elements from part to part

  int64_t width() const { return first.columns; }
  M part(int64_t i) const {
    const int64_t left = columns - i * width();
    return {first.data + i * step, first.rows, left < width() ? left : width(), first.stride};
  }
};

/// Any matrix as its own parts, side by side.
template <typename M>
InParts<M> side_by_side(M m, int64_t width) {
  return {m.slice(0, width), m.columns, width};
}

}  // namespace perceiver::runtime
