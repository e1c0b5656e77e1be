#pragma once

#include <map>
#include <string>
#include <string_view>

#include "io/file_bytes.h"

namespace perceiver::io {

/// The stored (uncompressed) entries of a zip file, zip64 included: entry name -> its bytes, a view
/// of the file. Entries may not overlap, so all of them together are never larger than the file.
/// @throws Error(kFormat) for a damaged or truncated archive, a repeated name or an entry out of
///   bounds; Error(kUnsupported) naming a compressed or encrypted entry
std::map<std::string, std::string_view, std::less<>> read_stored_zip(const FileBytes& file);

}  // namespace perceiver::io
