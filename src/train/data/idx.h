#pragma once

#include <filesystem>
#include <string>

#include "perceiver/base/array.h"

namespace perceiver::train {

/// The bytes of a file, unpacked if it begins like a gzip file.
/// @throws Error(kIo); Error(kFormat) if damaged, truncated or larger than `max_bytes` unpacked
std::string read_maybe_gzip(const std::filesystem::path& path, uint64_t max_bytes);

/// An IDX file of unsigned bytes (MNIST's format: 00 00 08 <rank>, big-endian extents, data).
/// @return U8 of the file's shape
/// @throws Error(kIo), Error(kFormat) naming what disagrees; Error(kUnsupported) for other types
Array read_idx(const std::filesystem::path& path);

}  // namespace perceiver::train
