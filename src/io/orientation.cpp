#include "io/orientation.h"

#include <cstring>

namespace perceiver::io {
namespace {

/// Bounds-checked integers of a TIFF structure in its own byte order.
class TiffBytes {
 public:
  TiffBytes(std::string_view bytes, bool big_endian) : bytes_(bytes), big_(big_endian) {}

  bool read(size_t at, int width, uint32_t* value) const {
    if (at > bytes_.size() || bytes_.size() - at < static_cast<size_t>(width)) {
      return false;
    }
    *value = 0;
    for (int i = 0; i < width; ++i) {
      const int from = big_ ? i : width - 1 - i;
      *value = *value << 8 | static_cast<unsigned char>(bytes_[at + static_cast<size_t>(from)]);
    }
    return true;
  }

 private:
  std::string_view bytes_;
  bool big_;
};

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kShort = 3;

}  // namespace

int exif_orientation(std::string_view tiff) {
  using namespace std::string_view_literals;
  const bool little = tiff.substr(0, 4) == "II*\0"sv;
  const bool big = tiff.substr(0, 4) == "MM\0*"sv;
  if (!little && !big) {
    return 1;
  }
  const TiffBytes bytes(tiff, big);
  uint32_t directory = 0, entries = 0;
  if (!bytes.read(4, 4, &directory) || !bytes.read(directory, 2, &entries)) {
    return 1;
  }
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = size_t{directory} + 2 + size_t{12} * i;
    uint32_t tag = 0, type = 0, value = 0;
    if (!bytes.read(entry, 2, &tag) || !bytes.read(entry + 2, 2, &type) ||
        !bytes.read(entry + 8, 2, &value)) {
      return 1;
    }
    if (tag == kOrientationTag) {
      return type == kShort && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  }
  return 1;
}

Array upright(const Array& pixels, int orientation) {
  if (orientation <= 1 || orientation > 8) {
    return pixels;
  }
  const int64_t height = pixels.size(0), width = pixels.size(1), channels = pixels.size(2);
  // Row 0 of the file is the right or bottom edge / column 0 is the right or bottom edge.
  const bool transposed = orientation >= 5;
  const bool flip_rows =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool flip_columns =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const int64_t out_height = transposed ? width : height, out_width = transposed ? height : width;
  Array out = Array::zeros(pixels.dtype(), {out_height, out_width, channels});
  const auto pixel_bytes = static_cast<size_t>(channels * dtype_size(pixels.dtype()));
  const std::byte* from = pixels.bytes();
  std::byte* to = out.mutable_bytes();
  for (int64_t y = 0; y < out_height; ++y) {
    for (int64_t x = 0; x < out_width; ++x) {
      const int64_t along_rows = transposed ? x : y;
      const int64_t along_columns = transposed ? y : x;
      const int64_t row = flip_rows ? height - 1 - along_rows : along_rows;
      const int64_t column = flip_columns ? width - 1 - along_columns : along_columns;
      std::memcpy(to, from + static_cast<size_t>(row * width + column) * pixel_bytes, pixel_bytes);
      to += pixel_bytes;
    }
  }
  return out;
}

}  // namespace perceiver::io
