#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// Joins the printed forms of `parts`: `cat("width ", 3, " of ", name)`.
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// `[2, 3, 4]`, the way shapes are written in every message.
std::string shape_string(const std::vector<int64_t>& shape);

/// Text fit for a one-line message: control characters and invalid UTF-8 are escaped and anything
/// longer than `max_bytes` is cut with an ellipsis. Every name read from a file goes through this.
std::string printable(std::string_view text, size_t max_bytes = 120);

}  // namespace perceiver
