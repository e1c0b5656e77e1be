#include <algorithm>
#include <array>
#include <cstring>

#include "io/ffmpeg_common.h"
#include "io/jpeg_markers.h"
#include "io/picture_formats.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

// FFmpeg decodes the samples; upsampling of the chroma planes and the colour matrix are done here,
// because FFmpeg's scaler rounds differently from libjpeg and logits are compared against pictures
// read by PIL.
namespace perceiver::io {
namespace {

/// One component as decoded: full size divided by 2^shift in each direction, rounded up.
struct Plane {
  const uint8_t* data = nullptr;
  ptrdiff_t stride = 0;
  int width = 0, height = 0;
  int shift_x = 0, shift_y = 0;

  const uint8_t* row(int y) const { return data + stride * std::clamp(y, 0, height - 1); }
};

uint8_t clamp_to_byte(int value) {
  return static_cast<uint8_t>(std::clamp(value, 0, 255));
}

/// Rows of a plane brought to full size by libjpeg's "fancy" triangle filter: a new sample is
/// 3/4 of the nearer and 1/4 of the farther old one in each halved direction, with the alternating
/// rounding of its specification; the outermost samples are copied.
class RowUpsampler {
 public:
  RowUpsampler(const Plane& plane, int width)
      : plane_(plane),
        sums_(static_cast<size_t>(plane.width)),
        out_(static_cast<size_t>(std::max(width, plane.width << plane.shift_x)) + 1) {}

  const uint8_t* row(int y) {
    const int near = y >> plane_.shift_y;
    if (plane_.shift_x == 0 && plane_.shift_y == 0) {
      return plane_.row(y);
    }
    const bool halved_both = plane_.shift_x == 1 && plane_.shift_y == 1;
    if (plane_.shift_x == 0 && plane_.shift_y == 1) {
      halve_vertical(near, y);
    } else if (plane_.shift_x == 1 && plane_.shift_y == 0 && plane_.width > 2) {
      std::copy_n(plane_.row(near), plane_.width, sums_.begin());
      triangle(1, 2, 2);
    } else if (halved_both && plane_.width > 2) {
      sum_rows(near, y);
      triangle(8, 7, 4);
    } else {
      repeat(plane_.row(near));
    }
    return out_.data();
  }

 private:
  int far_row(int near, int y) const { return (y & 1) != 0 ? near + 1 : near - 1; }

  void sum_rows(int near, int y) {
    const uint8_t* a = plane_.row(near);
    const uint8_t* b = plane_.row(far_row(near, y));
    for (size_t x = 0; x < sums_.size(); ++x) {
      sums_[x] = 3 * a[x] + b[x];
    }
  }

  void halve_vertical(int near, int y) {
    sum_rows(near, y);
    const int bias = (y & 1) != 0 ? 2 : 1;
    for (size_t x = 0; x < sums_.size(); ++x) {
      out_[x] = static_cast<uint8_t>((sums_[x] + bias) >> 2);
    }
  }

  /// Doubles `sums_` horizontally; `bits` is the weight of the sums times 4, as a shift.
  void triangle(int left_bias, int right_bias, int bits) {
    const size_t last = sums_.size() - 1;
    for (size_t x = 0; x <= last; ++x) {
      const int here = sums_[x];
      const int before = x > 0 ? sums_[x - 1] : here, after = x < last ? sums_[x + 1] : here;
      out_[2 * x] = static_cast<uint8_t>((3 * here + before + left_bias) >> bits);
      out_[2 * x + 1] = static_cast<uint8_t>((3 * here + after + right_bias) >> bits);
    }
  }

  void repeat(const uint8_t* row) {
    for (size_t x = 0; x < out_.size(); ++x) {
      const size_t from = std::min(x >> plane_.shift_x, sums_.size() - 1);
      out_[x] = row[from];
    }
  }

  Plane plane_;
  std::vector<int> sums_;
  std::vector<uint8_t> out_;
};

/// Full-range BT.601 of JFIF in 16-bit fixed point, the constants and rounding libjpeg uses.
void ycc_to_rgb(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int width, int step,
                uint8_t* out) {
  constexpr int kHalf = 1 << 15;
  constexpr int kCrToRed = 91881, kCbToBlue = 116130, kCrToGreen = 46802, kCbToGreen = 22554;
  for (int x = 0; x < width; ++x, out += step) {
    const int u = cb[x] - 128, v = cr[x] - 128;
    out[0] = clamp_to_byte(y[x] + ((kCrToRed * v + kHalf) >> 16));
    out[1] = clamp_to_byte(y[x] + ((-kCbToGreen * u - kCrToGreen * v + kHalf) >> 16));
    out[2] = clamp_to_byte(y[x] + ((kCbToBlue * u + kHalf) >> 16));
  }
}

Plane plane_of(const AVFrame& frame, int component, const std::string& where) {
  const AVPixFmtDescriptor* layout = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(frame.format));
  const bool planar = layout != nullptr && component < layout->nb_components &&
                      layout->comp[component].step == 1 && layout->comp[component].depth == 8 &&
                      layout->comp[component].offset == 0;
  if (!planar) {
    throw Error(ErrorCode::kUnsupported, cat(where, ": JPEG sample layout ", frame.format));
  }
  const int index = layout->comp[component].plane;
  const bool chroma = component == 1 || component == 2;
  Plane plane;
  plane.data = frame.data[index];
  plane.stride = frame.linesize[index];
  plane.shift_x = chroma ? layout->log2_chroma_w : 0;
  plane.shift_y = chroma ? layout->log2_chroma_h : 0;
  plane.width = AV_CEIL_RSHIFT(frame.width, plane.shift_x);
  plane.height = AV_CEIL_RSHIFT(frame.height, plane.shift_y);
  return plane;
}

Array grey_pixels(const Plane& plane) {
  Array pixels = Array::zeros(DType::kU8, {plane.height, plane.width, 1});
  for (int y = 0; y < plane.height; ++y) {
    std::memcpy(pixels.mutable_bytes() + ptrdiff_t{plane.width} * y, plane.row(y),
                static_cast<size_t>(plane.width));
  }
  return pixels;
}

void interleave(const std::vector<const uint8_t*>& rows, int width, uint8_t* out) {
  for (int x = 0; x < width; ++x) {
    for (const uint8_t* row : rows) {
      *out++ = row[x];
    }
  }
}

/// Four stored values are 255 - ink (Adobe's convention; PIL assumes it for every such file). The
/// "RGB" of YCCK is libjpeg's 255 - CMY, so C, M, Y come out inverted once more than K.
void finish_inks(JpegColor color, int width, uint8_t* out) {
  for (int x = 0; x < width; ++x, out += 4) {
    for (int c = 0; c < 4; ++c) {
      out[c] = color == JpegColor::kYcck && c < 3 ? out[c] : static_cast<uint8_t>(255 - out[c]);
    }
  }
}

Image color_image(const AVFrame& frame, const JpegHeader& header, const std::string& where) {
  const auto count = static_cast<int>(header.components.size());
  std::vector<RowUpsampler> upsamplers;
  for (int c = 0; c < count; ++c) {
    upsamplers.emplace_back(plane_of(frame, c, where), frame.width);
  }
  Image image;
  image.pixels = Array::zeros(DType::kU8, {frame.height, frame.width, count});
  image.color = count == 4 ? ColorModel::kCmyk : ColorModel::kRgb;
  uint8_t* out = image.pixels.mutable_data<uint8_t>();
  const bool matrix = header.color == JpegColor::kYcc || header.color == JpegColor::kYcck;
  std::vector<const uint8_t*> rows(static_cast<size_t>(count));
  for (int y = 0; y < frame.height; ++y, out += ptrdiff_t{frame.width} * count) {
    for (size_t c = 0; c < rows.size(); ++c) {
      rows[c] = upsamplers[c].row(y);
    }
    interleave(rows, frame.width, out);
    if (matrix) {
      ycc_to_rgb(rows[0], rows[1], rows[2], frame.width, count, out);
    }
    if (count == 4) {
      finish_inks(header.color, frame.width, out);
    }
  }
  return image;
}

}  // namespace

StoredImage decode_jpeg(std::string_view bytes, const std::string& where,
                        const ImageLimits& limits) {
  const JpegHeader header = parse_jpeg(bytes, where, limits);
  const ffmpeg::FramePtr frame = ffmpeg::decode_picture(
      {AV_CODEC_ID_MJPEG, header.stream, header.width, header.height}, where);
  if (header.color == JpegColor::kGrey) {
    return {make_image(grey_pixels(plane_of(*frame, 0, where))), header.orientation};
  }
  return {color_image(*frame, header, where), header.orientation};
}

}  // namespace perceiver::io
