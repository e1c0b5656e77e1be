#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::spec_detail {

/// Largest single extent or width a spec may name.
inline constexpr int64_t kMaxExtent = int64_t{1} << 31;
/// Largest product of extents, and largest number of parameters.
inline constexpr int64_t kMaxCount = int64_t{1} << 40;

/// Throws Error(kArgument, "[place] ...") unless `ok`.
template <typename... Parts>
void require(bool ok, const std::string& place, const Parts&... parts) {
  if (!ok) {
    throw Error(ErrorCode::kArgument, cat("[", place, "] ", parts...));
  }
}

/// `low <= value <= high`, naming field and value.
inline void require_range(int64_t value, int64_t low, int64_t high, const std::string& place,
                          const char* field) {
  require(value >= low && value <= high, place, field, " (", value, ") must be between ", low,
          " and ", high);
}

/// Product of extents that are already known to be positive.
inline int64_t checked_product(const std::vector<int64_t>& extents, const std::string& place,
                               const char* field) {
  int64_t product = 1;
  for (const int64_t extent : extents) {
    require(extent <= kMaxCount / product, place, field, " ", shape_string(extents),
            " has more than 2^40 elements");
    product *= extent;
  }
  return product;
}

}  // namespace perceiver::spec_detail
