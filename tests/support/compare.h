#pragma once

#include <string>

#include "perceiver/base/array.h"

namespace perceiver::test {

/// Largest absolute value; infinite if any element is NaN.
double max_abs(const Array& array);

/// How far two arrays of one shape are apart.
struct Difference {
  double max_abs = 0;  ///< infinite where only one of the two is a number, or the shapes differ
  double rms = 0;      ///< root of the mean square; infinite likewise
  std::string text;    ///< where the largest is, and both values; or both shapes
};
Difference difference(const Array& got, const Array& wanted);

/// First `count` entries along `axis`.
Array prefix(const Array& array, int64_t axis, int64_t count);

}  // namespace perceiver::test
