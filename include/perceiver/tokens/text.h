#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"

namespace perceiver::tokens {

/// Texts of one batch as arrays.
struct TextBatch {
  Array ids;   ///< [B, T] I64
  Array mask;  ///< [B, T] Bool, true = a token, false = padding
};

/// Pads on the right with `pad_id`. Padding inside the given sequences is not looked for.
/// @param length  T; 0 takes the longest text
/// @throws Error(kArgument) when there is no text, or one is longer than `length`, naming both
TextBatch batch_text(const std::vector<std::vector<int64_t>>& texts, int64_t length = 0,
                     int64_t pad_id = 0);

}  // namespace perceiver::tokens
