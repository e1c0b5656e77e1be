#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "io/ffmpeg_common.h"
#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/video.h"

namespace perceiver::io {
namespace {

void check_mp4(int code, const char* what) {
  if (code < 0) {
    throw Error(code == AVERROR(ENOMEM) ? ErrorCode::kIo : ErrorCode::kInternal,
                cat("writing MP4: ", what, ": ", ffmpeg::error_text(code)));
  }
}

const AVCodec& encoder_of(std::initializer_list<const char*> names, const char* what) {
  ffmpeg::silence();
  for (const char* name : names) {
    if (const AVCodec* codec = avcodec_find_encoder_by_name(name)) {
      return *codec;
    }
  }
  throw Error(ErrorCode::kUnsupported, cat("this FFmpeg has no ", what, " encoder"));
}

/// Muxes into memory, so that the file itself is written whole or not at all.
class Mp4Muxer {
 public:
  Mp4Muxer() {
    check_mp4(avformat_alloc_output_context2(&format_, nullptr, "mp4", nullptr), "container");
    const int code = avio_open_dyn_buf(&format_->pb);
    if (code < 0) {
      avformat_free_context(format_);
      check_mp4(code, "memory");
    }
  }
  ~Mp4Muxer() {
    if (format_->pb != nullptr) {
      uint8_t* bytes = nullptr;
      avio_close_dyn_buf(format_->pb, &bytes);
      av_free(bytes);
    }
    avformat_free_context(format_);
  }
  Mp4Muxer(const Mp4Muxer&) = delete;
  Mp4Muxer& operator=(const Mp4Muxer&) = delete;

  bool wants_global_header() const { return (format_->oformat->flags & AVFMT_GLOBALHEADER) != 0; }

  AVStream& add_stream(const AVCodecContext& encoder) {
    AVStream* stream = avformat_new_stream(format_, nullptr);
    if (stream == nullptr) {
      ffmpeg::throw_out_of_memory();
    }
    check_mp4(avcodec_parameters_from_context(stream->codecpar, &encoder), "stream");
    stream->time_base = encoder.time_base;
    stream->avg_frame_rate = encoder.framerate;
    return *stream;
  }

  void begin() {
    format_->flags |= AVFMT_FLAG_BITEXACT;  // no date and no library version in the file
    check_mp4(avformat_write_header(format_, nullptr), "header");
  }

  void write(AVPacket& packet) { check_mp4(av_interleaved_write_frame(format_, &packet), "data"); }

  std::string finish() {
    check_mp4(av_write_trailer(format_), "index");
    uint8_t* bytes = nullptr;
    const int size = avio_close_dyn_buf(format_->pb, &bytes);
    format_->pb = nullptr;
    std::string contents(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
    av_free(bytes);
    return contents;
  }

 private:
  AVFormatContext* format_ = nullptr;
};

/// One encoder and its stream in the file.
class Track {
 public:
  Track(Mp4Muxer& muxer, const AVCodec& codec)
      : muxer_(muxer),
        encoder_(ffmpeg::checked<ffmpeg::CodecPtr>(avcodec_alloc_context3(&codec))),
        packet_(ffmpeg::new_packet()) {
    encoder_->flags |= AV_CODEC_FLAG_BITEXACT;
    if (muxer.wants_global_header()) {
      encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    }
  }

  AVCodecContext& encoder() { return *encoder_; }

  void open() {
    check_mp4(avcodec_open2(encoder_.get(), encoder_->codec, nullptr), encoder_->codec->name);
    stream_ = &muxer_.add_stream(*encoder_);
  }

  /// Encodes one frame, or what is left when `frame` is null.
  void encode(const AVFrame* frame) {
    check_mp4(avcodec_send_frame(encoder_.get(), frame), "encoding");
    for (;;) {
      const int code = avcodec_receive_packet(encoder_.get(), packet_.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) {
        return;
      }
      check_mp4(code, "encoding");
      packet_->duration =
          packet_->duration > 0 || frame_ticks_ == 0 ? packet_->duration : frame_ticks_;
      av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      muxer_.write(*packet_);
    }
  }

  void set_frame_ticks(int64_t ticks) { frame_ticks_ = ticks; }

 private:
  Mp4Muxer& muxer_;
  ffmpeg::CodecPtr encoder_;
  ffmpeg::PacketPtr packet_;
  AVStream* stream_ = nullptr;
  int64_t frame_ticks_ = 0;
};

class PictureTrack {
 public:
  PictureTrack(Mp4Muxer& muxer, const Array& frames, AVRational rate)
      : frames_(frames),
        width_(static_cast<int>(frames.size(2))),
        height_(static_cast<int>(frames.size(1))),
        track_(muxer, encoder_of({"libx264", "libopenh264", "mpeg4"}, "H.264 or MPEG-4")),
        picture_(ffmpeg::new_frame()),
        padded_(ffmpeg::new_frame()) {
    AVCodecContext& encoder = track_.encoder();
    encoder.width = even(width_);
    encoder.height = even(height_);
    encoder.pix_fmt = AV_PIX_FMT_YUV420P;
    encoder.framerate = rate;
    encoder.time_base = av_inv_q(rate);
    encoder.colorspace = AVCOL_SPC_SMPTE170M;
    encoder.color_range = AVCOL_RANGE_MPEG;
    encoder.color_primaries = AVCOL_PRI_BT709;
    encoder.color_trc = AVCOL_TRC_IEC61966_2_1;
    if (encoder.codec_id == AV_CODEC_ID_H264) {
      av_opt_set(encoder.priv_data, "crf", "18", 0);
    } else {
      encoder.flags |= AV_CODEC_FLAG_QSCALE;
      encoder.global_quality = 3 * FF_QP2LAMBDA;
    }
    track_.open();
    track_.set_frame_ticks(1);
    allocate(*picture_, AV_PIX_FMT_YUV420P);
    allocate(*padded_,
             AV_PIX_FMT_RGB24);  // in a frame, so that rows are aligned and padded for SIMD
    scaler_.reset(sws_getContext(encoder.width, encoder.height, AV_PIX_FMT_RGB24, encoder.width,
                                 encoder.height, AV_PIX_FMT_YUV420P,
                                 SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, nullptr,
                                 nullptr, nullptr));
    if (!scaler_) {
      ffmpeg::throw_out_of_memory();
    }
  }

  bool done() const { return next_ >= frames_.size(0); }
  int64_t position() const { return next_; }

  void encode_next() {
    pad(frames_.data<uint8_t>() + next_ * int64_t{height_} * width_ * 3);
    check_mp4(av_frame_make_writable(picture_.get()), "memory");
    sws_scale(scaler_.get(), padded_->data, padded_->linesize, 0, padded_->height, picture_->data,
              picture_->linesize);
    picture_->pts = next_++;
    track_.encode(picture_.get());
  }

  void flush() { track_.encode(nullptr); }

 private:
  static int even(int side) { return side + (side & 1); }

  void allocate(AVFrame& frame, AVPixelFormat layout) const {
    frame.format = layout;
    frame.width = even(width_);
    frame.height = even(height_);
    check_mp4(av_frame_get_buffer(&frame, 0), "memory");
  }

  /// Copies a frame, repeating its last row and column where a side is odd.
  void pad(const uint8_t* frame) {
    const auto row_bytes = static_cast<size_t>(width_) * 3;
    for (int y = 0; y < even(height_); ++y) {
      const uint8_t* from = frame + row_bytes * static_cast<size_t>(std::min(y, height_ - 1));
      uint8_t* to = padded_->data[0] + ptrdiff_t{padded_->linesize[0]} * y;
      std::memcpy(to, from, row_bytes);
      if ((width_ & 1) != 0) {
        std::memcpy(to + row_bytes, from + row_bytes - 3, 3);
      }
    }
  }

  const Array& frames_;
  int width_, height_;
  Track track_;
  ffmpeg::FramePtr picture_, padded_;
  ffmpeg::ScalerPtr scaler_;
  int64_t next_ = 0;
};

class SoundTrack {
 public:
  SoundTrack(Mp4Muxer& muxer, Audio audio)
      : audio_(std::move(audio)), track_(muxer, encoder_of({"aac"}, "AAC")) {
    AVCodecContext& encoder = track_.encoder();
    encoder.sample_rate = audio_.sample_rate;
    encoder.sample_fmt = AV_SAMPLE_FMT_FLTP;
    encoder.time_base = {1, audio_.sample_rate};
    encoder.bit_rate = 96000 * audio_.channels();
    av_channel_layout_default(&encoder.ch_layout, static_cast<int>(audio_.channels()));
    track_.open();
  }

  bool done() const { return next_ >= audio_.length(); }
  double seconds() const { return static_cast<double>(next_) / audio_.sample_rate; }

  void encode_next() {
    const AVCodecContext& encoder = track_.encoder();
    const ffmpeg::FramePtr frame = ffmpeg::new_frame();
    const int64_t channels = audio_.channels();
    frame->nb_samples = static_cast<int>(std::min<int64_t>(
        encoder.frame_size > 0 ? encoder.frame_size : 1024, audio_.length() - next_));
    frame->format = AV_SAMPLE_FMT_FLTP;
    frame->sample_rate = audio_.sample_rate;
    check_mp4(av_channel_layout_copy(&frame->ch_layout, &encoder.ch_layout), "memory");
    check_mp4(av_frame_get_buffer(frame.get(), 0), "memory");
    const float* samples = audio_.samples.data<float>() + next_ * channels;
    for (int64_t c = 0; c < channels; ++c) {
      auto* plane = reinterpret_cast<float*>(frame->extended_data[c]);
      for (int64_t t = 0; t < frame->nb_samples; ++t) {
        plane[t] = samples[t * channels + c];
      }
    }
    frame->pts = next_;
    next_ += frame->nb_samples;
    track_.encode(frame.get());
  }

  void flush() { track_.encode(nullptr); }

 private:
  Audio audio_;
  Track track_;
  int64_t next_ = 0;
};

void check_frames(const Array& frames, double frames_per_second) {
  constexpr int64_t kMaxSide = 16384;
  if (frames.dim() != 4 || frames.size(3) != 3 || frames.dtype() != DType::kU8 ||
      frames.numel() == 0 || frames.size(1) > kMaxSide || frames.size(2) > kMaxSide) {
    throw Error(ErrorCode::kShape,
                cat("film frames must be [T, H, W, 3] U8 with sides up to ", kMaxSide, ", got ",
                    shape_string(frames.shape()), " ", dtype_name(frames.dtype())));
  }
  if (!(frames_per_second >= 0.01 && frames_per_second <= 1000.0)) {
    throw Error(ErrorCode::kArgument,
                cat("frames per second must be 0.01 to 1000, got ", frames_per_second));
  }
}

/// Sound in a rate and channel count AAC takes.
Audio encodable(const Audio& audio) {
  if (audio.samples.dim() != 2 || audio.channels() < 1 || audio.channels() > 2 ||
      audio.length() < 1) {
    throw Error(ErrorCode::kShape,
                cat("film sound must be [T, 1 or 2], got ", shape_string(audio.samples.shape())));
  }
  const float* values = audio.samples.data<float>();
  if (!std::all_of(values, values + audio.samples.numel(),
                   [](float v) { return std::isfinite(v); })) {
    throw Error(ErrorCode::kArgument, "film sound holds values that are not finite");
  }
  constexpr int kRates[] = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000};
  const bool known =
      std::find(std::begin(kRates), std::end(kRates), audio.sample_rate) != std::end(kRates);
  return known ? audio : resample(audio, 48000);
}

}  // namespace

void write_mp4(const std::filesystem::path& path, const Array& frames, double frames_per_second,
               const std::optional<Audio>& audio) {
  check_frames(frames, frames_per_second);
  constexpr int kLargestTerm = 60000;  // 30000/1001 stays exact
  const AVRational rate = av_d2q(frames_per_second, kLargestTerm);
  Mp4Muxer muxer;
  PictureTrack picture(muxer, frames, rate);
  std::optional<SoundTrack> sound;
  if (audio) {
    sound.emplace(muxer, encodable(*audio));
  }
  muxer.begin();
  while (!picture.done() || (sound && !sound->done())) {
    const double shown = static_cast<double>(picture.position()) * av_q2d(av_inv_q(rate));
    if (!picture.done() && (!sound || sound->done() || shown <= sound->seconds())) {
      picture.encode_next();
    } else {
      sound->encode_next();
    }
  }
  picture.flush();
  if (sound) {
    sound->flush();
  }
  write_file_atomically(path, muxer.finish());
}

}  // namespace perceiver::io
