#include "io/ffmpeg_common.h"

#include <cstdarg>
#include <cstring>
#include <limits>
#include <mutex>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io::ffmpeg {

void silence() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_callback([](void*, int, const char*, va_list) {}); });
}

void throw_out_of_memory() {
  throw Error(ErrorCode::kIo, "out of memory inside FFmpeg");
}

FramePtr new_frame() {
  return checked<FramePtr>(av_frame_alloc());
}

PacketPtr new_packet() {
  return checked<PacketPtr>(av_packet_alloc());
}

PacketPtr packet_of(std::string_view bytes) {
  if (bytes.size() >
      static_cast<size_t>(std::numeric_limits<int>::max()) - AV_INPUT_BUFFER_PADDING_SIZE) {
    throw Error(ErrorCode::kFormat, cat("a picture of ", bytes.size(), " bytes is over 2 GiB"));
  }
  PacketPtr packet = new_packet();
  if (av_new_packet(packet.get(), static_cast<int>(bytes.size())) < 0) {
    throw_out_of_memory();
  }
  std::memcpy(packet->data, bytes.data(), bytes.size());
  return packet;
}

std::string error_text(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  if (av_strerror(code, text, sizeof text) < 0) {
    return cat("FFmpeg error ", code);
  }
  return text;
}

namespace {

int get_filled_buffer(AVCodecContext* decoder, AVFrame* frame, int flags) {
  const int code = avcodec_default_get_buffer2(decoder, frame, flags);
  for (int i = 0; code >= 0 && i < AV_NUM_DATA_POINTERS && frame->buf[i] != nullptr; ++i) {
    std::memset(frame->buf[i]->data, *static_cast<const uint8_t*>(decoder->opaque),
                frame->buf[i]->size);
  }
  return code;
}

CodecPtr open_decoder(const CodedPicture& picture, const std::string& where) {
  silence();
  const AVCodec* codec = avcodec_find_decoder(picture.codec);
  if (codec == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                cat(where, ": this FFmpeg has no ", avcodec_get_name(picture.codec), " decoder"));
  }
  CodecPtr decoder = checked<CodecPtr>(avcodec_alloc_context3(codec));
  decoder->thread_count = 1;
  constexpr int64_t kAlignment = 128;  // decoders round the sides up before they compare
  decoder->max_pixels = (picture.width + kAlignment) * (picture.height + kAlignment);
  decoder->err_recognition = AV_EF_EXPLODE;
  decoder->idct_algo = FF_IDCT_FAAN;  // floating point: nearest to libjpeg's, see read_image()
  decoder->opaque = const_cast<uint8_t*>(&picture.fill);
  decoder->get_buffer2 = &get_filled_buffer;
  const int code = avcodec_open2(decoder.get(), codec, nullptr);
  if (code < 0) {
    throw Error(ErrorCode::kUnsupported,
                cat(where, ": cannot open the ", codec->name, " decoder: ", error_text(code)));
  }
  return decoder;
}

}  // namespace

FramePtr decode_picture(const CodedPicture& picture, const std::string& where) {
  const CodecPtr decoder = open_decoder(picture, where);
  const PacketPtr packet = packet_of(picture.bytes);
  FramePtr frame = new_frame();
  int code = avcodec_send_packet(decoder.get(), packet.get());
  if (code >= 0) {
    code = avcodec_send_packet(decoder.get(), nullptr);
  }
  if (code >= 0) {
    code = avcodec_receive_frame(decoder.get(), frame.get());
  }
  if (code < 0) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": damaged picture data: ",
                    code == AVERROR_EOF ? "no picture in it" : error_text(code)));
  }
  if (frame->decode_error_flags != 0 || (frame->flags & AV_FRAME_FLAG_CORRUPT) != 0) {
    throw Error(ErrorCode::kFormat, cat(where, ": damaged picture data"));
  }
  if (frame->width != picture.width || frame->height != picture.height) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": damaged picture: ", frame->width, "x", frame->height,
                    " pixels instead of ", picture.width, "x", picture.height));
  }
  return frame;
}

}  // namespace perceiver::io::ffmpeg
