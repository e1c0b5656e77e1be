#include "perceiver/io/image.h"

#include <algorithm>

#include "io/content_kind.h"
#include "io/orientation.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

/// a * b / 255 rounded, for bytes.
int scaled_by_byte(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

void cmyk_to_rgb(const uint8_t* inks, uint8_t* rgb) {
  const int white = 255 - inks[3];
  for (int c = 0; c < 3; ++c) {
    rgb[c] = static_cast<uint8_t>(std::clamp(white - scaled_by_byte(inks[c], white), 0, 255));
  }
}

StoredImage decode_stored(std::string_view bytes, const std::string& where,
                          const ImageLimits& limits) {
  const std::string_view head = bytes.substr(0, kContentHeadBytes);
  switch (content_kind(head)) {
    case ContentKind::kPng:
      return decode_png(bytes, where, limits);
    case ContentKind::kJpeg:
      return decode_jpeg(bytes, where, limits);
    case ContentKind::kPnm:
      return decode_pnm(bytes, where, limits);
    case ContentKind::kGif:
    case ContentKind::kBmp:
    case ContentKind::kWebp:
    case ContentKind::kTiff:
      throw Error(ErrorCode::kUnsupported, cat(where, ": ", describe_content(head),
                                               " is not supported; convert it to PNG or JPEG"));
    default:
      throw Error(
          ErrorCode::kFormat,
          cat(where, ": expected a PNG, JPEG, PGM or PPM picture, found ", describe_content(head)));
  }
}

}  // namespace

void check_image_size(int64_t width, int64_t height, const ImageLimits& limits,
                      const std::string& where) {
  if (width < 1 || height < 1) {
    throw Error(ErrorCode::kFormat, cat(where, ": a picture of ", width, "x", height, " pixels"));
  }
  if (width > limits.max_side || height > limits.max_side || width > limits.max_pixels / height) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": ", width, "x", height, " pixels is over the limit of ",
                    limits.max_pixels, " pixels and ", limits.max_side, " per side"));
  }
}

Image make_image(Array pixels) {
  if (pixels.dim() == 2) {
    pixels = pixels.reshape({pixels.size(0), pixels.size(1), 1});
  }
  if (pixels.dim() != 3 || pixels.numel() == 0 || pixels.size(2) > 4) {
    throw Error(ErrorCode::kShape,
                cat("a picture must be [H, W, 1..4], got ", shape_string(pixels.shape())));
  }
  if (pixels.dtype() != DType::kU8 && pixels.dtype() != DType::kU16) {
    throw Error(ErrorCode::kShape,
                cat("a picture must be U8 or U16, got ", dtype_name(pixels.dtype())));
  }
  constexpr ColorModel kByChannels[] = {ColorModel::kGrey, ColorModel::kGreyAlpha, ColorModel::kRgb,
                                        ColorModel::kRgba};
  const auto channels = static_cast<size_t>(pixels.size(2));
  return {std::move(pixels), kByChannels[channels - 1]};
}

Image decode_image(std::string_view bytes, const std::string& where,
                   const ReadImageOptions& options) {
  StoredImage stored = decode_stored(bytes, where, options.limits);
  if (options.apply_orientation) {
    stored.image.pixels = upright(stored.image.pixels, stored.orientation);
  }
  return std::move(stored.image);
}

Image read_image(const std::filesystem::path& path, const ReadImageOptions& options) {
  return decode_image(read_file(path, options.limits.max_file_bytes), printable(path.string()),
                      options);
}

Image to_8_bit(const Image& image) {
  if (image.pixels.dtype() == DType::kU8) {
    return image;
  }
  Array bytes = Array::zeros(DType::kU8, image.pixels.shape());
  const uint16_t* from = image.pixels.data<uint16_t>();
  std::transform(from, from + bytes.numel(), bytes.mutable_data<uint8_t>(),
                 [](uint16_t value) { return static_cast<uint8_t>(value >> 8); });
  return {std::move(bytes), image.color};
}

Image to_rgb(const Image& image) {
  const Image small = to_8_bit(image);
  if (small.color == ColorModel::kRgb) {
    return small;
  }
  const int64_t channels = small.channels(), count = small.height() * small.width();
  Array rgb = Array::zeros(DType::kU8, {small.height(), small.width(), 3});
  const uint8_t* from = small.pixels.data<uint8_t>();
  uint8_t* to = rgb.mutable_data<uint8_t>();
  const bool grey = small.color == ColorModel::kGrey || small.color == ColorModel::kGreyAlpha;
  for (int64_t i = 0; i < count; ++i, from += channels, to += 3) {
    if (small.color == ColorModel::kCmyk) {
      cmyk_to_rgb(from, to);
    } else {
      to[0] = from[0];
      to[1] = from[grey ? 0 : 1];
      to[2] = from[grey ? 0 : 2];
    }
  }
  return {std::move(rgb), ColorModel::kRgb};
}

Image to_grey(const Image& image) {
  const Image small = to_8_bit(image);
  if (small.color == ColorModel::kGrey) {
    return small;
  }
  const bool grey = small.color == ColorModel::kGreyAlpha;
  const Array pixels = grey ? small.pixels : to_rgb(small).pixels;
  const int64_t channels = pixels.size(2);
  Array out = Array::zeros(DType::kU8, {pixels.size(0), pixels.size(1), 1});
  const uint8_t* from = pixels.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t i = 0; i < out.numel(); ++i, from += channels) {
    to[i] = grey ? from[0]
                 : static_cast<uint8_t>(
                       (19595U * from[0] + 38470U * from[1] + 7471U * from[2] + 0x8000U) >> 16U);
  }
  return {std::move(out), ColorModel::kGrey};
}

void write_png(const std::filesystem::path& path, const Image& image) {
  write_file_atomically(path, encode_png(image));
}

}  // namespace perceiver::io
