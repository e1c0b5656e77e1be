#pragma once

#include <filesystem>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Reads an array that `numpy.save` wrote: versions 1 to 3 of the format, plain little-endian
/// numbers or bools, row-major. The array is a view of the mapped file, so reading is lazy and a
/// file may be larger than memory. Nothing in the file is ever executed: arrays of Python objects,
/// which numpy pickles, are refused.
/// @throws Error(kIo); Error(kFormat) for a header that is no such dictionary or a size that
///   disagrees with it; Error(kUnsupported) for other dtypes, big-endian numbers, column-major
///   order
Array read_npy(const std::filesystem::path& path);

}  // namespace perceiver::io
