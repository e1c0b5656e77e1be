#include "io/pickle_text.h"

#include <algorithm>
#include <charconv>

namespace perceiver::io {
namespace {

void append_utf8(std::string& out, uint32_t c) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

// Exactly `digits` hexadecimal digits at the start of `text`, which are then removed.
std::optional<uint32_t> take_hex(std::string_view& text, size_t digits) {
  if (text.size() < digits) {
    return std::nullopt;
  }
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, value, 16);
  if (error != std::errc{} || end != text.data() + digits) {
    return std::nullopt;
  }
  text.remove_prefix(digits);
  return value;
}

}  // namespace

std::optional<std::string> unescape_string(std::string_view literal) {
  const bool quoted = literal.size() >= 2 && literal.front() == literal.back() &&
                      (literal.front() == '\'' || literal.front() == '"');
  if (!quoted) {
    return std::nullopt;
  }
  std::string_view rest = literal.substr(1, literal.size() - 2);
  std::string out;
  while (!rest.empty()) {
    const char c = rest.front();
    rest.remove_prefix(1);
    if (c != '\\') {
      out.push_back(c);
      continue;
    }
    if (rest.empty()) {
      return std::nullopt;
    }
    const char escape = rest.front();
    rest.remove_prefix(1);
    constexpr std::string_view kNames = "\\'\"nrtabfv";
    constexpr std::string_view kMeanings = "\\'\"\n\r\t\a\b\f\v";
    if (escape == 'x') {
      const std::optional<uint32_t> value = take_hex(rest, 2);
      if (!value) {
        return std::nullopt;
      }
      out.push_back(static_cast<char>(*value));
    } else if (const size_t index = kNames.find(escape); index != std::string_view::npos) {
      out.push_back(kMeanings[index]);
    } else {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<std::string> unescape_unicode(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool short_form = text.starts_with("\\u");
    if (short_form || text.starts_with("\\U")) {
      text.remove_prefix(2);
      const std::optional<uint32_t> value = take_hex(text, short_form ? 4 : 8);
      if (!value || *value > 0x10FFFF) {
        return std::nullopt;
      }
      append_utf8(out, *value);
    } else {
      append_utf8(out, static_cast<unsigned char>(text.front()));
      text.remove_prefix(1);
    }
  }
  return out;
}

std::optional<std::string> latin1_bytes(std::string_view utf8, uint64_t count) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u; };
  const auto tails = std::count_if(utf8.begin(), utf8.end(), continues);
  if (utf8.size() - static_cast<uint64_t>(tails) != count) {
    return std::nullopt;
  }
  std::string bytes;
  bytes.reserve(count);
  for (size_t i = 0; i < utf8.size(); ++i) {
    const auto c = static_cast<unsigned char>(utf8[i]);
    if (c < 0x80) {
      bytes.push_back(utf8[i]);
    } else if ((c == 0xC2 || c == 0xC3) && i + 1 < utf8.size() && continues(utf8[i + 1])) {
      const auto tail = static_cast<unsigned char>(utf8[++i]);
      bytes.push_back(static_cast<char>(((c & 0x03u) << 6) | (tail & 0x3Fu)));
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

}  // namespace perceiver::io
