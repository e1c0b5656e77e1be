#include <cctype>
#include <cstring>

#include "io/byte_order.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

// Binary PGM (P5) and PPM (P6): "P6 width height maximum" in ASCII, one space, then the samples,
// big-endian when the maximum is over 255.
namespace perceiver::io {
namespace {

class PnmHeader {
 public:
  PnmHeader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  int64_t number() {
    skip_space();
    int64_t value = 0;
    const size_t start = at_;
    while (at_ < bytes_.size() && is_digit(bytes_[at_]) && at_ - start < 9) {
      value = value * 10 + (bytes_[at_++] - '0');
    }
    if (at_ == start) {
      throw Error(ErrorCode::kFormat, cat(where_, ": damaged PNM header"));
    }
    return value;
  }

  size_t after_one_space() const { return at_ + 1; }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  void skip_space() {
    while (at_ < bytes_.size()) {
      if (bytes_[at_] == '#') {
        while (at_ < bytes_.size() && bytes_[at_] != '\n') {
          ++at_;
        }
      } else if (std::isspace(static_cast<unsigned char>(bytes_[at_])) == 0) {
        return;
      } else {
        ++at_;
      }
    }
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 2;
};

/// Sample of `maximum` levels on the full range of its type, rounded.
uint32_t full_range(uint32_t value, uint32_t maximum, uint32_t top) {
  const uint32_t clamped = value < maximum ? value : maximum;
  return maximum == top ? clamped
                        : static_cast<uint32_t>((uint64_t{clamped} * top + maximum / 2) / maximum);
}

}  // namespace

StoredImage decode_pnm(std::string_view bytes, const std::string& where,
                       const ImageLimits& limits) {
  if (bytes[1] != '5' && bytes[1] != '6') {
    throw Error(ErrorCode::kUnsupported,
                cat(where, ": PNM of kind P", bytes[1], "; only P5 and P6 are read"));
  }
  PnmHeader header(bytes, where);
  const int64_t width = header.number(), height = header.number(), maximum = header.number();
  check_image_size(width, height, limits, where);
  if (maximum < 1 || maximum > 65535) {
    throw Error(ErrorCode::kFormat, cat(where, ": PNM maximum ", maximum, " is not in 1..65535"));
  }
  const int64_t channels = bytes[1] == '6' ? 3 : 1, width_bytes = maximum > 255 ? 2 : 1;
  const auto needed = static_cast<uint64_t>(width * height * channels * width_bytes);
  const size_t start = header.after_one_space();
  if (start > bytes.size() || bytes.size() - start < needed) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": truncated PNM: ", bytes.size(), " bytes, needs ", start + needed));
  }
  const std::string_view samples = bytes.substr(start, needed);
  const auto top = static_cast<uint32_t>(maximum);
  Array pixels =
      Array::zeros(width_bytes == 2 ? DType::kU16 : DType::kU8, {height, width, channels});
  for (int64_t i = 0; i < pixels.numel(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (width_bytes == 2) {
      pixels.mutable_data<uint16_t>()[i] =
          static_cast<uint16_t>(full_range(read_be16(samples, at * 2), top, 65535));
    } else {
      pixels.mutable_data<uint8_t>()[i] =
          static_cast<uint8_t>(full_range(static_cast<unsigned char>(samples[at]), top, 255));
    }
  }
  return {make_image(pixels), 1};
}

}  // namespace perceiver::io
