#include "train/event_file.h"

#include <bit>

#include "train/crc32c.h"

// A record is: length u64, masked CRC of the length, the message, masked CRC of the message, all
// little-endian. The message is protobuf's tensorflow.Event; field numbers stand beside each write.

namespace perceiver::train {
namespace {

// TFRecord stores CRCs so that a CRC of data holding CRCs stays useful.
uint32_t masked(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

template <typename Unsigned>
void append_little_endian(std::string& out, Unsigned value) {
  for (size_t i = 0; i < sizeof value; ++i) {
    out += static_cast<char>(value >> (8 * i) & 0xFF);
  }
}

void append_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>((value & 0x7F) | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_key(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | type);
}

void append_bytes(std::string& out, uint32_t field, const std::string& bytes) {
  append_key(out, field, kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

void append_record(std::string& out, const std::string& message) {
  std::string length;
  append_little_endian(length, static_cast<uint64_t>(message.size()));
  out += length;
  append_little_endian(out, masked(crc32c(length)));
  out += message;
  append_little_endian(out, masked(crc32c(message)));
}

std::string event(double wall_time, int64_t step) {
  std::string message;
  append_key(message, 1, kFixed64);  // wall_time
  append_little_endian(message, std::bit_cast<uint64_t>(wall_time));
  append_key(message, 2, kVarint);  // step
  append_varint(message, static_cast<uint64_t>(step));
  return message;
}

}  // namespace

std::string event_file_start(double wall_time) {
  std::string file;
  std::string version = event(wall_time, 0);
  append_bytes(version, 3, "brain.Event:2");  // file_version
  append_record(file, version);
  return file;
}

std::string event_record(const ScalarEvent& given) {
  std::string summary;
  for (const auto& [tag, value] : given.values) {
    std::string entry;
    append_bytes(entry, 1, tag);     // Summary.Value.tag
    append_key(entry, 2, kFixed32);  // Summary.Value.simple_value
    append_little_endian(entry, std::bit_cast<uint32_t>(static_cast<float>(value)));
    append_bytes(summary, 1, entry);  // Summary.value
  }
  std::string message = event(given.wall_time, given.step);
  append_bytes(message, 5, summary);  // Event.summary
  std::string record;
  append_record(record, message);
  return record;
}

}  // namespace perceiver::train
