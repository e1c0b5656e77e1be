#include "perceiver/base/str.h"

#include <cstdio>

namespace perceiver {
namespace {

struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;  // 0: not valid UTF-8 here
};

// Strict: overlong forms, surrogates and values above U+10FFFF are invalid (RFC 3629).
CodePoint decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) {
    return {first, 1};
  }
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) {
    return {};
  }
  uint32_t value = first & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) {
      return {};
    }
    value = (value << 6) | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[length] || value > 0x10FFFF || surrogate) {
    return {};
  }
  return {value, length};
}

// Characters that would move the cursor, break the line or reorder the rest of a message.
bool disturbs_a_line(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 ||
         (c >= 0x200E && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
         (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

std::string escaped(uint32_t c) {
  switch (c) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  char text[16];
  std::snprintf(text, sizeof text, c < 0x80 ? "\\x%02x" : "\\u%04x", c);
  return text;
}

}  // namespace

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::string printable(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const CodePoint point = decode_utf8(text);
    std::string piece;
    if (point.bytes == 0) {
      char hex[8];
      const auto byte = static_cast<unsigned char>(text[0]);
      std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(byte));
      piece = hex;
    } else if (disturbs_a_line(point.value)) {
      piece = escaped(point.value);
    } else {
      piece = std::string(text.substr(0, point.bytes));
    }
    if (out.size() + piece.size() > max_bytes) {
      return out + "...";
    }
    out += piece;
    text.remove_prefix(point.bytes == 0 ? 1 : point.bytes);
  }
  return out;
}

}  // namespace perceiver
