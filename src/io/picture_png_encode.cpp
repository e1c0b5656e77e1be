#include <cstring>

#include "io/ffmpeg_common.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/image.h"

namespace perceiver::io {
namespace {

AVPixelFormat png_layout(const Image& image) {
  const bool wide = image.pixels.dtype() == DType::kU16;
  switch (image.color) {
    case ColorModel::kGrey:
      return wide ? AV_PIX_FMT_GRAY16BE : AV_PIX_FMT_GRAY8;
    case ColorModel::kGreyAlpha:
      return wide ? AV_PIX_FMT_YA16BE : AV_PIX_FMT_YA8;
    case ColorModel::kRgb:
      return wide ? AV_PIX_FMT_RGB48BE : AV_PIX_FMT_RGB24;
    case ColorModel::kRgba:
      return wide ? AV_PIX_FMT_RGBA64BE : AV_PIX_FMT_RGBA;
    case ColorModel::kCmyk:
      break;
  }
  throw Error(ErrorCode::kArgument, "PNG cannot hold CMYK; use to_rgb() first");
}

void fill_frame(const Image& image, AVFrame& frame) {
  const auto row_bytes = static_cast<size_t>(image.pixels.nbytes() / image.height());
  for (int y = 0; y < frame.height; ++y) {
    uint8_t* to = frame.data[0] + ptrdiff_t{frame.linesize[0]} * y;
    std::memcpy(to, image.pixels.bytes() + row_bytes * static_cast<size_t>(y), row_bytes);
    if (image.pixels.dtype() == DType::kU16) {  // PNG stores the high byte first
      for (size_t i = 0; i + 1 < row_bytes; i += 2) {
        std::swap(to[i], to[i + 1]);
      }
    }
  }
}

void check_png(int code, const char* what) {
  if (code < 0) {
    throw Error(ErrorCode::kInternal, cat("PNG encoder: ", what, ": ", ffmpeg::error_text(code)));
  }
}

}  // namespace

std::string encode_png(const Image& image) {
  ffmpeg::silence();
  const Image checked = make_image(image.pixels);  // rank, channels, dtype, not empty
  const AVPixelFormat layout = png_layout({checked.pixels, image.color});
  if (image.color != checked.color) {
    throw Error(ErrorCode::kShape, cat("a picture of ", checked.channels(),
                                       " channels does not fit its colour model"));
  }
  constexpr int64_t kMaxSide = 1 << 20;
  if (checked.width() > kMaxSide || checked.height() > kMaxSide ||
      checked.pixels.nbytes() > (int64_t{1} << 30)) {
    throw Error(ErrorCode::kArgument, cat("a picture of ", checked.width(), "x", checked.height(),
                                          " is too large to write as one PNG"));
  }
  const AVCodec* codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
  if (codec == nullptr) {
    throw Error(ErrorCode::kUnsupported, "this FFmpeg has no PNG encoder");
  }
  const auto encoder = ffmpeg::checked<ffmpeg::CodecPtr>(avcodec_alloc_context3(codec));
  encoder->width = static_cast<int>(checked.width());
  encoder->height = static_cast<int>(checked.height());
  encoder->pix_fmt = layout;
  encoder->time_base = AVRational{1, 1};
  encoder->thread_count = 1;
  encoder->compression_level = 6;
  check_png(avcodec_open2(encoder.get(), codec, nullptr), "open");

  const ffmpeg::FramePtr frame = ffmpeg::new_frame();
  frame->format = layout;
  frame->width = encoder->width;
  frame->height = encoder->height;
  check_png(av_frame_get_buffer(frame.get(), 0), "memory");
  fill_frame(checked, *frame);
  const ffmpeg::PacketPtr packet = ffmpeg::new_packet();
  check_png(avcodec_send_frame(encoder.get(), frame.get()), "frame");
  check_png(avcodec_receive_packet(encoder.get(), packet.get()), "packet");
  return {reinterpret_cast<const char*>(packet->data), static_cast<size_t>(packet->size)};
}

}  // namespace perceiver::io
