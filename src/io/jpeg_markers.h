#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/io/image.h"

namespace perceiver::io {

/// How the components of a JPEG encode colour, by libjpeg's rules.
enum class JpegColor { kGrey, kYcc, kRgb, kCmyk, kYcck };

struct JpegComponent {
  int id = 0, horizontal = 1, vertical = 1;  ///< sampling factors 1..4
};

/// What the markers of a JPEG file say, and a copy of it reduced to what makes samples.
struct JpegHeader {
  int64_t width = 0, height = 0;
  std::vector<JpegComponent> components;
  JpegColor color = JpegColor::kYcc;
  int orientation = 1;
  /// Application and comment segments left out and components renumbered 1, 2, 3, 4, so that the
  /// decoder delivers the samples as stored and all colour decisions are ours.
  std::string stream;
};

/// Walks every marker up to the end of the image.
/// Layout: ITU-T T.81 annex B; colour rules: libjpeg.txt "Special color spaces".
/// @throws Error(kFormat), Error(kUnsupported)
JpegHeader parse_jpeg(std::string_view bytes, const std::string& where, const ImageLimits& limits);

}  // namespace perceiver::io
