#pragma once

#include <string_view>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// The orientation tag (1..8) of the first directory of EXIF data, or 1 when there is none or the
/// data is damaged: it is advice about a picture that decodes without it.
/// @param tiff  starts at the "II*\0" or "MM\0*" byte-order mark
int exif_orientation(std::string_view tiff);

/// [H, W, C] samples turned and mirrored so that a picture stored with `orientation` stands
/// upright. 1 as stored, 2 mirrored, 3 upside down, 4 both, 5..8 transposed kinds (EXIF 2.3, tag
/// 0x0112).
Array upright(const Array& pixels, int orientation);

}  // namespace perceiver::io
