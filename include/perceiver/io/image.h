#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// What the channels of a picture mean, in order.
enum class ColorModel : uint8_t {
  kGrey,       ///< 1 channel
  kGreyAlpha,  ///< 2
  kRgb,        ///< 3
  kRgba,       ///< 4
  kCmyk,       ///< 4, amounts of ink: 0 is none (PIL's sense, whatever the file stores)
};

/// A still picture, rows top to bottom, channels last.
struct Image {
  Array pixels;  ///< [H, W, C] U8 or U16
  ColorModel color = ColorModel::kRgb;

  int64_t height() const { return pixels.size(0); }
  int64_t width() const { return pixels.size(1); }
  int64_t channels() const { return pixels.size(2); }
};

/// Wraps [H, W, C] samples: C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. [H, W] is taken as grey.
/// @throws Error(kShape) for another rank, channel count, dtype than U8 / U16, or an empty picture
Image make_image(Array pixels);

/// Refusals made from the header alone, before any memory is taken for pixels.
struct ImageLimits {
  int64_t max_pixels = int64_t{1} << 28;  ///< width * height
  int64_t max_side = 65535;               ///< width and height each
  uint64_t max_file_bytes = uint64_t{1} << 30;
};

struct ReadImageOptions {
  bool apply_orientation = true;  ///< turn and mirror as the EXIF orientation (JPEG, PNG eXIf) says
  ImageLimits limits = {};
};

/// Reads a PNG (1 to 16 bits; grey, palette, RGB, alpha; interlaced or not), a JPEG (baseline or
/// progressive, 8 bits; grey, YCbCr, RGB, CMYK, YCCK) or a binary PGM / PPM. What the file is, is
/// decided by its first bytes, never by its name.
///
/// PNG pixels equal PIL's in every level. JPEG chroma is upsampled and turned into RGB exactly as
/// libjpeg-turbo does it; its integer inverse DCT is replaced by FFmpeg's floating-point one, which
/// moves about 1.2 % of the decoded samples by one level: against PIL 13 at most 3 levels in RGB
/// and 1.0 to 4.5 % of values changed on 150 pictures of all kinds and samplings. A colour key
/// (tRNS of a grey or RGB PNG) is ignored; a palette with tRNS gives RGBA. Colour profiles and
/// gamma are not applied.
/// @throws Error(kIo) unreadable; Error(kFormat) truncated, damaged, over a limit or not a picture;
///         Error(kUnsupported) another picture format, or a variant not implemented
Image read_image(const std::filesystem::path& path, const ReadImageOptions& options = {});

/// The same from memory. @param where  what to call the bytes in messages
Image decode_image(std::string_view bytes, const std::string& where,
                   const ReadImageOptions& options = {});

/// 16-bit samples become 8-bit ones by keeping the high byte (v >> 8), as PIL does when it opens
/// 16-bit RGB. (For 16-bit grey PIL's convert("RGB") clips at 255 instead, which is nobody's wish.)
/// 8-bit pictures are returned as they are.
Image to_8_bit(const Image& image);

/// [H, W, 3] U8: grey is repeated, alpha is dropped (not blended), CMYK becomes RGB by
/// (255 - ink)(255 - black) / 255 with PIL's rounding, 16 bits become 8: PIL's convert("RGB").
Image to_rgb(const Image& image);

/// [H, W, 1] U8: the lightness of a colour picture as PIL's convert("L") has it; grey stays as it
/// is and loses alpha.
Image to_grey(const Image& image);

/// PNG bytes of a grey, grey + alpha, RGB or RGBA picture, 8 or 16 bits per channel.
/// @throws Error(kArgument) for CMYK; Error(kShape) for an array that is not a picture
std::string encode_png(const Image& image);

/// Writes the PNG whole or not at all. @throws Error(kIo)
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace perceiver::io
