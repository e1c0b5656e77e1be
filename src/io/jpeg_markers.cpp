#include "io/jpeg_markers.h"

#include <algorithm>

#include "io/byte_order.h"
#include "io/orientation.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

using namespace std::string_view_literals;

// A progressive file may refine the whole picture in every scan: bound the work per byte of header.
constexpr int kMaxScans = 500;

enum Marker : int {
  kSof0 = 0xC0,
  kSof2 = 0xC2,
  kDht = 0xC4,
  kJpg = 0xC8,
  kDac = 0xCC,
  kSof15 = 0xCF,
  kRst0 = 0xD0,
  kRst7 = 0xD7,
  kSoi = 0xD8,
  kEoi = 0xD9,
  kSos = 0xDA,
  kDqt = 0xDB,
  kDri = 0xDD,
  kApp0 = 0xE0,
  kApp1 = 0xE1,
  kApp14 = 0xEE,
  kTem = 0x01,
};

class JpegParser {
 public:
  JpegParser(std::string_view bytes, const std::string& where, const ImageLimits& limits)
      : bytes_(bytes), where_(where), limits_(limits) {}

  JpegHeader parse() {
    header_.stream.assign("\xff\xd8"sv);
    for (;;) {
      const int marker = next_marker();
      if (marker == kEoi) {
        break;
      }
      if (marker == kSoi || marker == kTem || (marker >= kRst0 && marker <= kRst7)) {
        continue;
      }
      read_segment(marker);
    }
    if (scans_ == 0) {
      damaged("it holds no picture");
    }
    header_.stream.append("\xff\xd9"sv);
    header_.color = color();
    return std::move(header_);
  }

 private:
  [[noreturn]] void damaged(const std::string& what) const {
    throw Error(ErrorCode::kFormat, cat(where_, ": damaged JPEG: ", what));
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(ErrorCode::kUnsupported, cat(where_, ": JPEG ", what, " is not supported"));
  }
  [[noreturn]] void truncated() const {
    throw Error(ErrorCode::kFormat, cat(where_, ": truncated JPEG: it ends after ", bytes_.size(),
                                        " bytes without an end marker"));
  }

  int next_marker() {
    // Stray bytes between segments are skipped, as libjpeg does.
    at_ = bytes_.find('\xff', at_);
    while (at_ != std::string_view::npos && at_ + 1 < bytes_.size() &&
           (bytes_[at_ + 1] == '\xff' || bytes_[at_ + 1] == '\0')) {
      at_ = bytes_.find('\xff', at_ + 1);
    }
    if (at_ == std::string_view::npos || at_ + 1 >= bytes_.size()) {
      truncated();
    }
    at_ += 2;
    return static_cast<unsigned char>(bytes_[at_ - 1]);
  }

  void read_segment(int marker) {
    if (bytes_.size() - at_ < 2 || bytes_.size() - at_ < read_be16(bytes_, at_)) {
      truncated();
    }
    const size_t size = read_be16(bytes_, at_);
    if (size < 2) {
      damaged("a segment shorter than its own length field");
    }
    const std::string_view data = bytes_.substr(at_ + 2, size - 2);
    at_ += size;
    if (marker == kSos) {
      read_scan(data);
    } else if (marker == kDht || marker == kDqt || marker == kDri) {
      keep(marker, data);
    } else if (marker >= kSof0 && marker <= kSof15 && marker != kJpg && marker != kDac) {
      read_frame(marker, data);
    } else if (marker >= kApp0 && marker <= kApp14) {
      read_application(marker, data);
    } else if (marker == kDac) {
      unsupported("with arithmetic coding");
    }
  }

  void keep(int marker, std::string_view data) {
    const size_t size = data.size() + 2;
    header_.stream.append({'\xff', static_cast<char>(marker), static_cast<char>(size >> 8),
                           static_cast<char>(size & 255)});
    header_.stream.append(data);
  }

  void read_frame(int marker, std::string_view data) {
    if (marker > kSof2) {
      unsupported(marker >= 0xC9 ? "with arithmetic coding" : "in lossless or hierarchical mode");
    }
    if (!header_.components.empty()) {
      damaged("a second frame header");
    }
    if (data.size() < 6) {
      damaged("a short frame header");
    }
    const int bits = static_cast<unsigned char>(data[0]);
    header_.height = read_be16(data, 1);
    header_.width = read_be16(data, 3);
    const auto count = static_cast<size_t>(static_cast<unsigned char>(data[5]));
    if (bits != 8) {
      unsupported(cat("with ", bits, " bits per sample"));
    }
    if (header_.height == 0 && header_.width > 0) {
      unsupported("with its height stated after the picture");
    }
    check_image_size(header_.width, header_.height, limits_, where_);
    if (count != 1 && count != 3 && count != 4) {
      unsupported(cat("with ", count, " components"));
    }
    if (data.size() != 6 + 3 * count) {
      damaged("a frame header of the wrong length");
    }
    std::string renumbered(data);
    for (size_t i = 0; i < count; ++i) {
      const int sampling = static_cast<unsigned char>(data[7 + 3 * i]);
      const JpegComponent component{static_cast<unsigned char>(data[6 + 3 * i]), sampling >> 4,
                                    sampling & 15};
      if (component.horizontal < 1 || component.horizontal > 4 || component.vertical < 1 ||
          component.vertical > 4) {
        damaged(cat("sampling factors ", component.horizontal, "x", component.vertical));
      }
      header_.components.push_back(component);
      renumbered[6 + 3 * i] = static_cast<char>(i + 1);
    }
    baseline_ = marker != kSof2;
    keep(marker, renumbered);
  }

  /// Scan header and the entropy-coded data up to the next marker.
  void read_scan(std::string_view data) {
    if (header_.components.empty()) {
      damaged("a scan before the frame header");
    }
    if (++scans_ > kMaxScans) {
      damaged(cat("more than ", kMaxScans, " scans"));
    }
    const size_t count = data.empty() ? 0 : static_cast<unsigned char>(data[0]);
    if (count < 1 || count > header_.components.size() || data.size() != 4 + 2 * count) {
      damaged("a scan header of the wrong length");
    }
    std::string renumbered(data);
    for (size_t i = 0; i < count; ++i) {
      renumbered[1 + 2 * i] =
          static_cast<char>(number_of(static_cast<unsigned char>(data[1 + 2 * i])));
    }
    keep(kSos, renumbered);
    const size_t start = at_;
    for (;;) {
      at_ = bytes_.find('\xff', at_);
      if (at_ == std::string_view::npos || at_ + 1 >= bytes_.size()) {
        truncated();
      }
      const int next = static_cast<unsigned char>(bytes_[at_ + 1]);
      if (next != 0 && next != 0xFF && (next < kRst0 || next > kRst7)) {
        break;
      }
      at_ += next == 0xFF ? 1 : 2;
    }
    header_.stream.append(bytes_.substr(start, at_ - start));
    check_plausible(at_ - start, count);
  }

  /// A baseline block takes at least two bits; far fewer cannot be the picture the header promises.
  void check_plausible(size_t scan_bytes, size_t scan_components) const {
    const int64_t blocks = ((header_.width + 7) / 8) * ((header_.height + 7) / 8);
    if (baseline_ && scan_components == header_.components.size() &&
        static_cast<int64_t>(scan_bytes) < blocks / 4) {
      throw Error(ErrorCode::kFormat,
                  cat(where_, ": truncated JPEG: ", scan_bytes, " bytes cannot hold ",
                      header_.width, "x", header_.height, " pixels"));
    }
  }

  int number_of(int id) const {
    for (size_t i = 0; i < header_.components.size(); ++i) {
      if (header_.components[i].id == id) {
        return static_cast<int>(i) + 1;
      }
    }
    damaged(cat("a scan of the unknown component ", id));
  }

  void read_application(int marker, std::string_view data) {
    constexpr auto kExif = "Exif\0\0"sv;
    if (marker == kApp0 && data.substr(0, 5) == "JFIF\0"sv) {
      jfif_ = true;
    } else if (marker == kApp1 && data.substr(0, kExif.size()) == kExif) {
      header_.orientation = exif_orientation(data.substr(kExif.size()));
    } else if (marker == kApp14 && data.size() >= 12 && data.substr(0, 5) == "Adobe"sv) {
      adobe_transform_ = static_cast<unsigned char>(data[11]);
    }
  }

  JpegColor color() const {
    const auto& c = header_.components;
    if (c.size() == 1) {
      return JpegColor::kGrey;
    }
    if (c.size() == 4) {
      return adobe_transform_ == 2 ? JpegColor::kYcck : JpegColor::kCmyk;
    }
    if (jfif_) {
      return JpegColor::kYcc;
    }
    if (adobe_transform_) {
      return *adobe_transform_ == 0 ? JpegColor::kRgb : JpegColor::kYcc;
    }
    return c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B' ? JpegColor::kRgb : JpegColor::kYcc;
  }

  std::string_view bytes_;
  const std::string& where_;
  const ImageLimits& limits_;
  JpegHeader header_;
  size_t at_ = 2;
  int scans_ = 0;
  bool jfif_ = false, baseline_ = true;
  std::optional<int> adobe_transform_;
};

}  // namespace

JpegHeader parse_jpeg(std::string_view bytes, const std::string& where, const ImageLimits& limits) {
  return JpegParser(bytes, where, limits).parse();
}

}  // namespace perceiver::io
