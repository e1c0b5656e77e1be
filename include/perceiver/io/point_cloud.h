#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// A surface of triangles. Coordinates are double: those of a national grid differ in their seventh
/// digit.
struct Mesh {
  Array vertices;   ///< F64 [V, 3]
  Array triangles;  ///< I32 [T, 3], rows of `vertices`
};

/// Reads an ASCII OFF mesh: `OFF`, the numbers of vertices, faces and edges, then a line each.
/// Lines may end in CR LF, `#` begins a comment, the counts may stand on the first line, even
/// without a space (`OFF490 518 0`, as some ModelNet files have it). Faces of more than three
/// corners are cut into triangles; colours behind them are ignored.
/// @throws Error(kIo); Error(kFormat) naming the line; Error(kUnsupported) for binary files and
///   for variants with more values per vertex (COFF, NOFF, 4OFF)
Mesh read_off(const std::filesystem::path& path);
/// The same from a file's contents. @param where  what messages call it
Mesh decode_off(std::string_view text, const std::string& where);

/// Reads points as text, one a line: `x y z` or `x y z nx ny nz`, separated by blanks, commas or
/// semicolons; `#` begins a comment. Every line has as many values as the first, 3 to 32.
/// @return F64 [n, values], n > 0
/// @throws Error(kIo); Error(kFormat) naming the line
Array read_points(const std::filesystem::path& path);
Array decode_points(std::string_view text, const std::string& where);

}  // namespace perceiver::io
