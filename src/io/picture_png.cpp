#include <algorithm>
#include <cctype>
#include <cstring>

#include "io/byte_order.h"
#include "io/ffmpeg_common.h"
#include "io/orientation.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

// Layout: PNG specification (ISO/IEC 15948), section 5 "Datastream structure".
namespace perceiver::io {
namespace {

using namespace std::string_view_literals;

constexpr size_t kSignatureBytes = 8;
constexpr size_t kChunkOverhead = 12;  // length, type, checksum
// Deflate cannot shrink data further than 1032 to 1, so fewer bytes than that cannot fill the
// picture.
constexpr uint64_t kMaxDeflateRatio = 1032;

enum PngColor : int { kPngGrey = 0, kPngRgb = 2, kPngPalette = 3, kPngGreyAlpha = 4, kPngRgba = 6 };

struct PngHeader {
  int64_t width = 0, height = 0;
  int bits = 0, color = 0;
  bool palette = false, transparency = false, interlaced = false, end = false;
  uint64_t data_bytes = 0;
  int orientation = 1;
  std::string stream;  ///< signature and the chunks that make pixels
};

[[noreturn]] void damaged(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kFormat, cat(where, ": damaged PNG: ", what));
}

uint32_t checksum(std::string_view type_and_data) {
  const AVCRC* table = av_crc_get_table(AV_CRC_32_IEEE_LE);
  return ~av_crc(table, 0xFFFFFFFFU, reinterpret_cast<const uint8_t*>(type_and_data.data()),
                 type_and_data.size());
}

int channels_of(int color) {
  switch (color) {
    case kPngGrey:
    case kPngPalette:
      return 1;
    case kPngGreyAlpha:
      return 2;
    case kPngRgb:
      return 3;
    default:
      return 4;
  }
}

bool depth_allowed(int color, int bits) {
  const bool power = bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16;
  switch (color) {
    case kPngGrey:
      return power;
    case kPngPalette:
      return power && bits <= 8;
    case kPngRgb:
    case kPngGreyAlpha:
    case kPngRgba:
      return bits == 8 || bits == 16;
    default:
      return false;
  }
}

void read_header(std::string_view data, PngHeader& header, const std::string& where,
                 const ImageLimits& limits) {
  if (data.size() != 13) {
    damaged(where, cat("its header has ", data.size(), " bytes, not 13"));
  }
  header.width = read_be32(data, 0);
  header.height = read_be32(data, 4);
  header.bits = static_cast<unsigned char>(data[8]);
  header.color = static_cast<unsigned char>(data[9]);
  header.interlaced = data[12] != 0;
  check_image_size(header.width, header.height, limits, where);
  if (!depth_allowed(header.color, header.bits)) {
    damaged(where, cat("no such kind: colour type ", header.color, " with ", header.bits, " bits"));
  }
}

/// Takes one whole chunk (`chunk` = length to checksum) into `header`.
void read_chunk(std::string_view chunk, PngHeader& header, const std::string& where,
                const ImageLimits& limits) {
  const std::string_view type = chunk.substr(4, 4);
  const std::string_view data = chunk.substr(8, chunk.size() - kChunkOverhead);
  const bool first = header.width == 0;
  if (first != (type == "IHDR")) {
    damaged(where, first ? "it does not start with IHDR" : "a second IHDR");
  }
  bool keep = true;
  if (first) {
    read_header(data, header, where, limits);
  } else if (type == "PLTE") {
    keep = header.color == kPngPalette;  // elsewhere it is only a suggestion
    header.palette = header.palette || keep;
  } else if (type == "tRNS") {
    keep = header.color == kPngPalette;  // a colour key otherwise
    header.transparency = header.transparency || keep;
  } else if (type == "IDAT") {
    header.data_bytes += data.size();
  } else if (type == "IEND") {
    header.end = true;
  } else {
    keep = false;
    if (type == "eXIf") {
      header.orientation = exif_orientation(data);
    } else if (std::isupper(static_cast<unsigned char>(type[0])) != 0) {
      throw Error(ErrorCode::kUnsupported,
                  cat(where, ": PNG with the unknown critical part ", printable(type)));
    }
  }
  if (!keep) {
    return;
  }
  if (checksum(chunk.substr(4, 4 + data.size())) != read_be32(chunk, chunk.size() - 4)) {
    damaged(where, cat("the checksum of its ", printable(type), " part is wrong"));
  }
  header.stream.append(chunk);
}

PngHeader parse(std::string_view bytes, const std::string& where, const ImageLimits& limits) {
  PngHeader header;
  header.stream.assign(bytes.substr(0, kSignatureBytes));
  size_t at = kSignatureBytes;
  while (!header.end) {
    if (bytes.size() - at < kChunkOverhead ||
        bytes.size() - at - kChunkOverhead < read_be32(bytes, at)) {
      throw Error(ErrorCode::kFormat,
                  cat(where, ": truncated PNG: it ends after ", bytes.size(), " bytes"));
    }
    const size_t size = kChunkOverhead + read_be32(bytes, at);
    read_chunk(bytes.substr(at, size), header, where, limits);
    at += size;
  }
  if (header.color == kPngPalette && !header.palette) {
    damaged(where, "it has no palette");
  }
  const auto row_bits =
      static_cast<uint64_t>(header.width * channels_of(header.color) * header.bits);
  const uint64_t needed = static_cast<uint64_t>(header.height) * ((row_bits + 7) / 8 + 1);
  if (header.data_bytes < needed / kMaxDeflateRatio) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": truncated PNG: ", header.data_bytes, " bytes cannot hold ",
                    header.width, "x", header.height, " pixels"));
  }
  return header;
}

void copy_palette_rows(const AVFrame& frame, bool alpha, Array& out) {
  const auto* palette = reinterpret_cast<const uint32_t*>(frame.data[1]);  // native 0xAARRGGBB
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int y = 0; y < frame.height; ++y) {
    const uint8_t* from = frame.data[0] + ptrdiff_t{frame.linesize[0]} * y;
    for (int x = 0; x < frame.width; ++x) {
      const uint32_t argb = palette[from[x]];
      *to++ = static_cast<uint8_t>(argb >> 16);
      *to++ = static_cast<uint8_t>(argb >> 8);
      *to++ = static_cast<uint8_t>(argb);
      if (alpha) {
        *to++ = static_cast<uint8_t>(argb >> 24);
      }
    }
  }
}

void copy_bit_rows(const AVFrame& frame, Array& out) {
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int y = 0; y < frame.height; ++y) {
    const uint8_t* from = frame.data[0] + ptrdiff_t{frame.linesize[0]} * y;
    for (int x = 0; x < frame.width; ++x) {
      *to++ = (from[x >> 3] >> (7 - (x & 7)) & 1) != 0 ? 255 : 0;
    }
  }
}

void copy_byte_rows(const AVFrame& frame, Array& out) {
  const auto row_bytes = static_cast<size_t>(out.nbytes() / frame.height);
  for (int y = 0; y < frame.height; ++y) {
    std::memcpy(out.mutable_bytes() + row_bytes * static_cast<size_t>(y),
                frame.data[0] + ptrdiff_t{frame.linesize[0]} * y, row_bytes);
  }
}

void copy_word_rows(const AVFrame& frame, Array& out) {
  const int64_t values = out.numel() / frame.height;
  uint16_t* to = out.mutable_data<uint16_t>();
  for (int y = 0; y < frame.height; ++y) {
    const std::string_view row(
        reinterpret_cast<const char*>(frame.data[0] + ptrdiff_t{frame.linesize[0]} * y),
        static_cast<size_t>(values) * 2);
    for (int64_t x = 0; x < values; ++x) {
      *to++ = static_cast<uint16_t>(read_be16(row, static_cast<size_t>(x) * 2));
    }
  }
}

Image image_of(const AVFrame& frame, bool alpha, const std::string& where) {
  const auto make = [&](DType dtype, int64_t channels) {
    return make_image(Array::zeros(dtype, {frame.height, frame.width, channels}));
  };
  Image image;
  switch (frame.format) {
    case AV_PIX_FMT_PAL8:
      image = make(DType::kU8, alpha ? 4 : 3);
      break;
    case AV_PIX_FMT_MONOBLACK:
    case AV_PIX_FMT_GRAY8:
      image = make(DType::kU8, 1);
      break;
    case AV_PIX_FMT_YA8:
      image = make(DType::kU8, 2);
      break;
    case AV_PIX_FMT_RGB24:
      image = make(DType::kU8, 3);
      break;
    case AV_PIX_FMT_RGBA:
      image = make(DType::kU8, 4);
      break;
    case AV_PIX_FMT_GRAY16BE:
      image = make(DType::kU16, 1);
      break;
    case AV_PIX_FMT_YA16BE:
      image = make(DType::kU16, 2);
      break;
    case AV_PIX_FMT_RGB48BE:
      image = make(DType::kU16, 3);
      break;
    case AV_PIX_FMT_RGBA64BE:
      image = make(DType::kU16, 4);
      break;
    default:
      throw Error(ErrorCode::kUnsupported, cat(where, ": PNG pixel layout ", frame.format));
  }
  if (frame.format == AV_PIX_FMT_PAL8) {
    copy_palette_rows(frame, alpha, image.pixels);
  } else if (frame.format == AV_PIX_FMT_MONOBLACK) {
    copy_bit_rows(frame, image.pixels);
  } else if (image.pixels.dtype() == DType::kU16) {
    copy_word_rows(frame, image.pixels);
  } else {
    copy_byte_rows(frame, image.pixels);
  }
  return image;
}

/// FFmpeg gives a picture whose data end early as a frame whose last row (of the last pass) still
/// has the bytes it had before. Only when that row could be black is a second decode needed to
/// tell.
bool last_row_holds_only(const AVFrame& frame, const PngHeader& header, uint8_t value) {
  if (header.interlaced && frame.height == 1) {
    return false;
  }
  const int row = header.interlaced ? (frame.height / 2) * 2 - 1 : frame.height - 1;
  const int64_t row_bits = header.width * channels_of(header.color) * header.bits;
  const auto bytes = static_cast<size_t>(std::max<int64_t>(1, row_bits / 8));
  const uint8_t* data = frame.data[0] + ptrdiff_t{frame.linesize[0]} * row;
  return std::all_of(data, data + bytes, [value](uint8_t byte) { return byte == value; });
}

}  // namespace

StoredImage decode_png(std::string_view bytes, const std::string& where,
                       const ImageLimits& limits) {
  const PngHeader header = parse(bytes, where, limits);
  ffmpeg::CodedPicture picture{AV_CODEC_ID_PNG, header.stream, header.width, header.height};
  ffmpeg::FramePtr frame = ffmpeg::decode_picture(picture, where);
  if (last_row_holds_only(*frame, header, picture.fill)) {
    picture.fill = 0xFF;
    frame = ffmpeg::decode_picture(picture, where);
    if (last_row_holds_only(*frame, header, picture.fill)) {
      throw Error(ErrorCode::kFormat, cat(where, ": truncated PNG: its last row is missing"));
    }
  }
  return {image_of(*frame, header.transparency, where), header.orientation};
}

}  // namespace perceiver::io
