#pragma once

#include <cstdint>

namespace perceiver::spec_detail {

/// A count in a formula of doubles, where products would overflow integers.
inline double d(int64_t value) {
  return static_cast<double>(value);
}

}  // namespace perceiver::spec_detail
