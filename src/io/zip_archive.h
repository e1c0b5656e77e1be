#pragma once

#include <map>
#include <string>
#include <string_view>

#include "io/file_bytes.h"

namespace perceiver::io {

/// An entry's bytes as they lie in the file.
struct ZipEntry {
  std::string_view bytes;
  const char* obstacle = nullptr;  ///< "compressed" or "encrypted": `bytes` are not the contents
};
using ZipEntries = std::map<std::string, ZipEntry, std::less<>>;

/// The entries of a zip file, zip64 included, by name. They may not overlap, so all together they
/// are never larger than the file. Nothing is decompressed.
/// @throws Error(kFormat) for a damaged or truncated archive, a repeated name or an entry out of
///   bounds
ZipEntries read_zip(const FileBytes& file);

}  // namespace perceiver::io
