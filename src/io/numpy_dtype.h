#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// What numpy's code without a byte order, such as "f4", stands for; nothing for what is not plain
/// numbers.
inline std::optional<DType> plain_numpy_dtype(std::string_view code) {
  constexpr std::array<std::pair<std::string_view, DType>, 12> kCodes{{
      {"f8", DType::kF64},
      {"f4", DType::kF32},
      {"f2", DType::kF16},
      {"i8", DType::kI64},
      {"i4", DType::kI32},
      {"i2", DType::kI16},
      {"i1", DType::kI8},
      {"u8", DType::kU64},
      {"u4", DType::kU32},
      {"u2", DType::kU16},
      {"u1", DType::kU8},
      {"b1", DType::kBool},
  }};
  for (const auto& [known, dtype] : kCodes) {
    if (known == code) {
      return dtype;
    }
  }
  return std::nullopt;
}

}  // namespace perceiver::io
