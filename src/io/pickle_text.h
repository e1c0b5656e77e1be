#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace perceiver::io {

/// Value of the quoted literal that opcode STRING of pickle protocol 0 carries (a Python 2 `str`).
std::optional<std::string> unescape_string(std::string_view literal);

/// UTF-8 of Python's raw-unicode-escape, which opcode UNICODE of protocol 0 carries.
std::optional<std::string> unescape_unicode(std::string_view text);

/// Bytes whose values are the code points of `utf8`, which is how protocols below 3 carry bytes.
/// Nothing when a code point exceeds 255 or when there are not exactly `count` of them.
std::optional<std::string> latin1_bytes(std::string_view utf8, uint64_t count);

}  // namespace perceiver::io
