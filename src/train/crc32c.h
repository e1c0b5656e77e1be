#pragma once

#include <cstdint>
#include <string_view>

namespace perceiver::train {

/// CRC-32C (Castagnoli) of `bytes`. @param before  that of what comes before them
uint32_t crc32c(std::string_view bytes, uint32_t before = 0);

}  // namespace perceiver::train
