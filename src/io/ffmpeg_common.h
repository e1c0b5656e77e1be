#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "io/ffmpeg_lazy.h"

// Owning handles for FFmpeg's objects, and its error codes as text.
namespace perceiver::io::ffmpeg {

template <const auto& kFree>
struct FreeByAddress {
  template <typename T>
  void operator()(T* object) const {
    kFree(&object);
  }
};

using FramePtr = std::unique_ptr<AVFrame, FreeByAddress<av_frame_free>>;
using PacketPtr = std::unique_ptr<AVPacket, FreeByAddress<av_packet_free>>;
using CodecPtr = std::unique_ptr<AVCodecContext, FreeByAddress<avcodec_free_context>>;
using ResamplerPtr = std::unique_ptr<SwrContext, FreeByAddress<swr_free>>;

struct FreeScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};
using ScalerPtr = std::unique_ptr<SwsContext, FreeScaler>;

/// FFmpeg logs to stderr unless told otherwise; the library never prints. Cheap after the first
/// call.
void silence();

/// `object`, or Error(kIo) "out of memory" when FFmpeg returned null.
template <typename Ptr>
Ptr checked(typename Ptr::pointer object);
[[noreturn]] void throw_out_of_memory();
template <typename Ptr>
Ptr checked(typename Ptr::pointer object) {
  if (object == nullptr) {
    throw_out_of_memory();
  }
  return Ptr(object);
}

FramePtr new_frame();
PacketPtr new_packet();
/// A packet holding a copy of `bytes` with the padding decoders read past the end.
PacketPtr packet_of(std::string_view bytes);

/// FFmpeg's words for an error code: "Invalid data found when processing input".
std::string error_text(int code);

/// A still picture as its container describes it.
struct CodedPicture {
  AVCodecID codec = AV_CODEC_ID_NONE;
  std::string_view bytes;
  int64_t width = 0, height = 0;  ///< as the header states them
  /// Value every byte of the frame has before decoding, to find out what was left unwritten.
  uint8_t fill = 0;
};

/// Decodes it with one thread. @throws Error(kFormat) naming `where` when that does not go cleanly
/// or the frame has another size; Error(kUnsupported) without such a decoder
FramePtr decode_picture(const CodedPicture& picture, const std::string& where);

}  // namespace perceiver::io::ffmpeg
