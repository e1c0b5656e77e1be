#include "perceiver/io/video.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/ffmpeg_common.h"
#include "io/media_input.h"
#include "io/orientation.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

/// The film's display matrix (a 2 x 2 turn or mirror in its upper left) as an EXIF orientation.
/// Only quarter turns and mirrors exist in practice; anything else is shown as stored.
int orientation_of(const AVStream& stream) {
  const auto* matrix = reinterpret_cast<const int32_t*>(
      av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
  if (matrix == nullptr) {
    return 1;
  }
  const auto sign = [](int32_t value) { return value > 0 ? 1 : value < 0 ? -1 : 0; };
  const int a = sign(matrix[0]), b = sign(matrix[1]), c = sign(matrix[3]), d = sign(matrix[4]);
  struct Case {
    int a, b, c, d, orientation;
  };
  // (x, y) stored goes to (a x + c y, b x + d y) shown.
  static constexpr Case kCases[] = {{-1, 0, 0, 1, 2}, {-1, 0, 0, -1, 3}, {1, 0, 0, -1, 4},
                                    {0, 1, 1, 0, 5},  {0, 1, -1, 0, 6},  {0, -1, -1, 0, 7},
                                    {0, -1, 1, 0, 8}};
  for (const Case& known : kCases) {
    if (known.a == a && known.b == b && known.c == c && known.d == d) {
      return known.orientation;
    }
  }
  return 1;
}

/// Converts decoded frames of one size and layout to packed RGB.
class RgbConverter {
 public:
  Array convert(const AVFrame& frame, const std::string& where) {
    if (!scaler_) {
      open(frame, where);
    }
    Array pixels = Array::zeros(DType::kU8, {frame.height, frame.width, 3});
    // The scaler may write whole vectors past a row's end: let it do so in rows of its own.
    const int stride = (frame.width * 3 + 63) & ~63;
    buffer_.resize(static_cast<size_t>(stride) * static_cast<size_t>(frame.height) + 64);
    uint8_t* planes[4] = {buffer_.data(), nullptr, nullptr, nullptr};
    const int strides[4] = {stride, 0, 0, 0};
    if (sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, planes, strides) !=
        frame.height) {
      throw Error(ErrorCode::kInternal, cat(where, ": colour conversion failed"));
    }
    const auto row_bytes = static_cast<size_t>(frame.width) * 3;
    for (int y = 0; y < frame.height; ++y) {
      std::memcpy(pixels.mutable_bytes() + row_bytes * static_cast<size_t>(y),
                  buffer_.data() + static_cast<size_t>(stride) * static_cast<size_t>(y), row_bytes);
    }
    return pixels;
  }

 private:
  void open(const AVFrame& frame, const std::string& where) {
    constexpr int kFlags = SWS_BICUBIC;  // the ffmpeg program's default: equal to its rgb24 output
    scaler_.reset(sws_getContext(
        frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width,
        frame.height, AV_PIX_FMT_RGB24, kFlags, nullptr, nullptr, nullptr));
    if (!scaler_) {
      throw Error(ErrorCode::kUnsupported, cat(where, ": film pixel layout ", frame.format));
    }
    const int* matrix = sws_getCoefficients(frame.colorspace == AVCOL_SPC_UNSPECIFIED
                                                ? SWS_CS_ITU601
                                                : static_cast<int>(frame.colorspace));
    const int full = frame.color_range == AVCOL_RANGE_JPEG ? 1 : 0;
    constexpr int kNeutral = 1 << 16;
    sws_setColorspaceDetails(scaler_.get(), matrix, full, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0,
                             kNeutral, kNeutral);
  }

  ffmpeg::ScalerPtr scaler_;
  std::vector<uint8_t> buffer_;
};

void check_options(const ReadVideoOptions& options) {
  if (!(options.start_seconds >= 0.0) || options.max_frames < 0 || options.frame_step < 1) {
    throw Error(ErrorCode::kArgument,
                cat("film start ", options.start_seconds, " s, ", options.max_frames,
                    " frames, every ", options.frame_step, ": must be >= 0, >= 0 and >= 1"));
  }
}

}  // namespace

struct VideoReader::State {
  State(const std::filesystem::path& path, const ReadVideoOptions& wishes)
      : options(wishes),
        input(path, {ContentKind::kMp4, ContentKind::kAvi}, "an MP4, MOV or AVI film",
              wishes.limits.max_pixels),
        packet(ffmpeg::new_packet()),
        frame(ffmpeg::new_frame()) {
    check_options(options);
    index = input.best_stream(AVMEDIA_TYPE_VIDEO);
    if (index < 0) {
      throw Error(ErrorCode::kFormat, cat(input.where(), ": holds no moving picture"));
    }
    describe();
    decoder = input.open_decoder(index, 0);
    seek();
  }

  void describe() {
    const AVStream& stream = input.stream(index);
    const AVCodecParameters& parameters = *stream.codecpar;
    const int64_t width = parameters.width, height = parameters.height;
    if (width < 1 || height < 1 || width > options.limits.max_pixels / height) {
      throw Error(ErrorCode::kFormat,
                  cat(input.where(), ": ", width, "x", height, " pixels per frame, the limit is ",
                      options.limits.max_pixels, " in all"));
    }
    orientation = orientation_of(stream);
    info.width = orientation >= 5 ? height : width;
    info.height = orientation >= 5 ? width : height;
    info.codec = avcodec_get_name(parameters.codec_id);
    info.frames_per_second = stream.avg_frame_rate.den > 0 ? av_q2d(stream.avg_frame_rate) : 0.0;
    info.num_frames = std::max<int64_t>(0, stream.nb_frames);
    const AVFormatContext& container = input.format();
    info.seconds = stream.duration > 0
                       ? static_cast<double>(stream.duration) * av_q2d(stream.time_base)
                   : container.duration > 0 ? static_cast<double>(container.duration) / AV_TIME_BASE
                                            : 0.0;
    info.has_audio = input.best_stream(AVMEDIA_TYPE_AUDIO) >= 0;
  }

  /// To the key frame at or before the start; frames before the start are dropped after decoding.
  void seek() {
    if (options.start_seconds <= 0.0) {
      return;
    }
    const double ticks = options.start_seconds / av_q2d(input.stream(index).time_base);
    if (ticks < static_cast<double>(INT64_MAX / 2)) {
      const auto target = static_cast<int64_t>(ticks);
      // A file that cannot seek is read from its start instead.
      avformat_seek_file(&input.format(), index, INT64_MIN, target, target, 0);
    }
  }

  /// Next decoded frame into `frame`; false after the last.
  bool decode() {
    for (;;) {
      const int code = avcodec_receive_frame(decoder.get(), frame.get());
      if (code >= 0) {
        return true;
      }
      if (code == AVERROR_EOF) {
        return false;
      }
      check(code == AVERROR(EAGAIN) ? 0 : code);
      const bool more = !drained && input.read(*packet, index);
      drained = !more;
      check(avcodec_send_packet(decoder.get(), more ? packet.get() : nullptr));
    }
  }

  void check(int code) const {
    if (code < 0) {
      throw Error(ErrorCode::kFormat,
                  cat(input.where(), ": damaged film data: ", ffmpeg::error_text(code)));
    }
  }

  /// Presentation time; a frame without one follows the frame before it.
  double time_of(const AVFrame& decoded) {
    if (decoded.best_effort_timestamp != AV_NOPTS_VALUE) {
      last_seconds = static_cast<double>(decoded.best_effort_timestamp) *
                     av_q2d(input.stream(index).time_base);
    } else if (info.frames_per_second > 0.0) {
      last_seconds += 1.0 / info.frames_per_second;
    }
    return last_seconds;
  }

  bool wanted(double seconds) {
    constexpr double kTimeSlack = 1e-6;  // a start typed in decimal against a rational time stamp
    return seconds >= options.start_seconds - kTimeSlack && seen++ % options.frame_step == 0;
  }

  ReadVideoOptions options;
  MediaInput input;
  ffmpeg::PacketPtr packet;
  ffmpeg::FramePtr frame;
  ffmpeg::CodecPtr decoder;
  RgbConverter converter;
  VideoInfo info;
  int index = -1, orientation = 1, layout = -1;
  int64_t seen = 0, delivered = 0;
  double last_seconds = 0.0;
  bool drained = false;
};

VideoReader::VideoReader(const std::filesystem::path& path, const ReadVideoOptions& options)
    : state_(std::make_unique<State>(path, options)) {}
VideoReader::~VideoReader() = default;
VideoReader::VideoReader(VideoReader&&) noexcept = default;
VideoReader& VideoReader::operator=(VideoReader&&) noexcept = default;

const VideoInfo& VideoReader::info() const {
  return state_->info;
}

std::optional<VideoFrame> VideoReader::next() {
  State& s = *state_;
  while ((s.options.max_frames == 0 || s.delivered < s.options.max_frames) && s.decode()) {
    const AVFrame& frame = *s.frame;
    const int64_t stored_width = s.orientation >= 5 ? s.info.height : s.info.width;
    const int64_t stored_height = s.orientation >= 5 ? s.info.width : s.info.height;
    s.layout = s.layout < 0 ? frame.format : s.layout;
    if (frame.width != stored_width || frame.height != stored_height || frame.format != s.layout) {
      throw Error(ErrorCode::kFormat, cat(s.input.where(), ": its picture changes from ",
                                          stored_width, "x", stored_height, " to ", frame.width,
                                          "x", frame.height, " pixels or another layout"));
    }
    const double seconds = s.time_of(frame);
    if (s.wanted(seconds)) {
      if (frame.decode_error_flags != 0 || (frame.flags & AV_FRAME_FLAG_CORRUPT) != 0) {
        throw Error(ErrorCode::kFormat,
                    cat(s.input.where(), ": damaged film data at ", seconds, " s"));
      }
      ++s.delivered;
      return VideoFrame{upright(s.converter.convert(frame, s.input.where()), s.orientation),
                        seconds};
    }
  }
  return std::nullopt;
}

VideoInfo probe_video(const std::filesystem::path& path, const VideoLimits& limits) {
  ReadVideoOptions options;
  options.limits = limits;
  return VideoReader(path, options).info();
}

Video read_video(const std::filesystem::path& path, const ReadVideoOptions& options) {
  VideoReader reader(path, options);
  Video video;
  video.info = reader.info();
  std::vector<Array> frames;
  int64_t bytes = 0;
  while (auto frame = reader.next()) {
    bytes += frame->pixels.nbytes();
    if (bytes > options.limits.max_bytes) {
      throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": its frames take more than ",
                                          options.limits.max_bytes, " bytes"));
    }
    frames.push_back(std::move(frame->pixels));
    video.seconds.push_back(frame->seconds);
  }
  if (frames.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": no frame at or after ",
                                        options.start_seconds, " s"));
  }
  const int64_t frame_bytes = frames[0].nbytes();
  video.frames = Array::zeros(
      DType::kU8, {static_cast<int64_t>(frames.size()), video.info.height, video.info.width, 3});
  std::byte* to = video.frames.mutable_bytes();
  for (Array& frame : frames) {
    std::memcpy(to, frame.bytes(), static_cast<size_t>(frame_bytes));
    to += frame_bytes;
    frame = Array();  // so that the peak is one copy of the film, not two
  }
  return video;
}

}  // namespace perceiver::io
