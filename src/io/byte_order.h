#pragma once

#include <cstdint>
#include <string_view>

namespace perceiver::io {

/// Big- and little-endian integers at `at`; the caller has checked that they lie inside `bytes`.
inline uint32_t read_be16(std::string_view bytes, size_t at) {
  return static_cast<uint32_t>(static_cast<unsigned char>(bytes[at]) << 8 |
                               static_cast<unsigned char>(bytes[at + 1]));
}
inline uint32_t read_be32(std::string_view bytes, size_t at) {
  return read_be16(bytes, at) << 16 | read_be16(bytes, at + 2);
}
inline uint32_t read_le16(std::string_view bytes, size_t at) {
  return static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + 1]) << 8 |
                               static_cast<unsigned char>(bytes[at]));
}
inline uint32_t read_le32(std::string_view bytes, size_t at) {
  return read_le16(bytes, at + 2) << 16 | read_le16(bytes, at);
}

}  // namespace perceiver::io
