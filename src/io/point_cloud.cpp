#include "perceiver/io/point_cloud.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 30;
constexpr size_t kMaxColumns = 32;
constexpr double kLargest = 1e30;  // whose squares and products stay finite
constexpr std::string_view kBlanks = " \t\r\v\f";

/// Lines that hold something, comments cut off, and numbers on them. Memory grows with what is
/// there, never with what the file claims.
class Lines {
 public:
  Lines(std::string_view text, const std::string& where, bool commas)
      : rest_(text), where_(where), separators_(commas ? " \t\r\v\f,;" : kBlanks) {}

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kFormat, cat(where_, ", line ", number_, ": ", why));
  }

  /// The next line that is not blank; false at the end.
  bool next() {
    while (!rest_.empty()) {
      const size_t end = std::min(rest_.find('\n'), rest_.size());
      line_ = rest_.substr(0, std::min(rest_.substr(0, end).find('#'), end));
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++number_;
      skip();
      if (!line_.empty()) {
        return true;
      }
    }
    return false;
  }

  bool at_end() {
    skip();
    return line_.empty();
  }

  std::string_view rest_of_line() const { return line_; }
  void drop(size_t count) { line_.remove_prefix(count); }

  double real() {
    double value = 0;
    parse(value, "a number");
    if (!(std::fabs(value) <= kLargest)) {
      refuse(cat("a coordinate is ", value, ", beyond ", kLargest));
    }
    return value;
  }

  int64_t integer(int64_t maximum) {
    int64_t value = 0;
    parse(value, "a whole number");
    if (value < 0 || value > maximum) {
      refuse(cat(value, " is not between 0 and ", maximum));
    }
    return value;
  }

 private:
  void skip() { line_.remove_prefix(std::min(line_.find_first_not_of(separators_), line_.size())); }

  template <typename T>
  void parse(T& value, const char* wanted) {
    skip();
    if (line_.starts_with('+')) {
      line_.remove_prefix(1);
    }
    const auto [end, problem] = std::from_chars(line_.data(), line_.data() + line_.size(), value);
    const auto length = static_cast<size_t>(end - line_.data());
    const bool whole =
        length == line_.size() || separators_.find(line_[length]) != std::string::npos;
    if (problem != std::errc() || !whole) {
      refuse(cat("expected ", wanted, ", found '", printable(line_, 40), "'"));
    }
    line_.remove_prefix(length);
  }

  std::string_view rest_, line_;
  const std::string& where_;
  std::string_view separators_;
  int64_t number_ = 0;
};

Array to_array(const std::vector<double>& values, int64_t columns) {
  return Array::of<double>({static_cast<int64_t>(values.size()) / columns, columns}, values);
}

// The keyword; leaves the reader before the counts.
void read_keyword(Lines& lines, const std::string& where) {
  if (!lines.next()) {
    throw Error(ErrorCode::kFormat, where + ": an empty file, not an OFF mesh");
  }
  const std::string_view line = lines.rest_of_line();
  if (!line.starts_with("OFF")) {
    const std::string_view word = line.substr(0, line.find_first_of(kBlanks));
    if (word.size() <= 8 && word.ends_with("OFF")) {
      throw Error(ErrorCode::kUnsupported,
                  cat(where, ": OFF variant ", printable(word), ", only plain OFF is read"));
    }
    lines.refuse(cat("an OFF mesh begins with OFF, this with '", printable(line, 20), "'"));
  }
  lines.drop(3);
  if (lines.rest_of_line().starts_with(" BINARY")) {
    throw Error(ErrorCode::kUnsupported, where + ": a binary OFF mesh, only text is read");
  }
}

void need_line(Lines& lines, const char* what, int64_t done, int64_t count) {
  if (!lines.next()) {
    lines.refuse(cat("the file ends after ", done, " of ", count, " ", what));
  }
}

}  // namespace

Mesh decode_off(std::string_view text, const std::string& where) {
  Lines lines(text, where, /*commas=*/false);
  read_keyword(lines, where);
  if (lines.at_end() && !lines.next()) {
    lines.refuse("the counts of vertices, faces and edges are missing");
  }
  constexpr int64_t kMost = INT32_MAX;
  const int64_t vertices = lines.integer(kMost);
  const int64_t faces = lines.integer(kMost);
  std::vector<double> places;
  for (int64_t i = 0; i < vertices; ++i) {
    need_line(lines, "vertices", i, vertices);
    for (int axis = 0; axis < 3; ++axis) {
      places.push_back(lines.real());
    }
  }
  std::vector<int32_t> triangles;
  for (int64_t i = 0; i < faces; ++i) {
    need_line(lines, "faces", i, faces);
    const int64_t corners = lines.integer(kMost);
    int32_t first = 0;
    int32_t last = 0;
    for (int64_t corner = 0; corner < corners; ++corner) {
      const auto index = static_cast<int32_t>(lines.integer(vertices - 1));
      if (corner == 0) {
        first = index;
      } else if (corner >= 2) {
        triangles.insert(triangles.end(), {first, last, index});
      }
      last = index;
    }
  }
  Mesh mesh;
  mesh.vertices = to_array(places, 3);
  mesh.triangles = Array::of<int32_t>({static_cast<int64_t>(triangles.size()) / 3, 3}, triangles);
  return mesh;
}

Mesh read_off(const std::filesystem::path& path) {
  return decode_off(read_file(path, kMaxBytes), printable(path.string()));
}

Array decode_points(std::string_view text, const std::string& where) {
  Lines lines(text, where, /*commas=*/true);
  std::vector<double> values;
  size_t columns = 0;
  while (lines.next()) {
    const size_t before = values.size();
    while (!lines.at_end()) {
      if (values.size() - before == kMaxColumns) {
        lines.refuse(cat("more than ", kMaxColumns, " values"));
      }
      values.push_back(lines.real());
    }
    const size_t found = values.size() - before;
    columns = before == 0 ? found : columns;
    if (found != columns || columns < 3) {
      lines.refuse(cat(found, " values, ", columns < 3 ? "a point has at least 3" : "not ",
                       columns < 3 ? "" : std::to_string(columns)));
    }
  }
  if (values.empty()) {
    throw Error(ErrorCode::kFormat, where + ": holds no point");
  }
  return to_array(values, static_cast<int64_t>(columns));
}

Array read_points(const std::filesystem::path& path) {
  return decode_points(read_file(path, kMaxBytes), printable(path.string()));
}

}  // namespace perceiver::io
