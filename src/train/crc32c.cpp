#include "train/crc32c.h"

#include <array>

// Eight bytes a turn, each by a table of its own (Kounavis and Berry, "slicing by 8"): checkpoints
// are gigabytes.

namespace perceiver::train {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;  // Castagnoli, reflected
constexpr size_t kSlices = 8;
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value >> 1) ^ ((value & 1u) != 0 ? kPolynomial : 0u);
    }
    tables[0][i] = value;
  }
  for (size_t slice = 1; slice < kSlices; ++slice) {
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t shorter = tables[slice - 1][i];
      tables[slice][i] = (shorter >> 8) ^ tables[0][shorter & 0xFFu];
    }
  }
  return tables;
}

uint64_t little_endian(const char* bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kSlices; ++i) {
    value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return value;
}

}  // namespace

uint32_t crc32c(std::string_view bytes, uint32_t before) {
  static constexpr Tables kTables = make_tables();
  uint32_t crc = ~before;
  for (; bytes.size() >= kSlices; bytes.remove_prefix(kSlices)) {
    const uint64_t eight = little_endian(bytes.data()) ^ crc;
    crc = 0;
    for (size_t i = 0; i < kSlices; ++i) {
      crc ^= kTables[kSlices - 1 - i][eight >> (8 * i) & 0xFFu];
    }
  }
  for (const char c : bytes) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<unsigned char>(c)) & 0xFFu];
  }
  return ~crc;
}

}  // namespace perceiver::train
