#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "perceiver/io/image.h"

// The picture formats behind decode_image(). Each parses its own headers first, refuses what is too
// large, truncated or unsupported, and hands FFmpeg only the parts that make pixels.
namespace perceiver::io {

/// As stored, with the orientation the file asks for (1 = upright).
struct StoredImage {
  Image image;
  int orientation = 1;
};

StoredImage decode_png(std::string_view bytes, const std::string& where, const ImageLimits& limits);
StoredImage decode_jpeg(std::string_view bytes, const std::string& where,
                        const ImageLimits& limits);
StoredImage decode_pnm(std::string_view bytes, const std::string& where, const ImageLimits& limits);

/// @throws Error(kFormat) when a side is 0 or a limit is passed
void check_image_size(int64_t width, int64_t height, const ImageLimits& limits,
                      const std::string& where);

}  // namespace perceiver::io
