#include "perceiver/io/audio.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "io/ffmpeg_common.h"
#include "io/media_input.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

constexpr int kMaxSampleRate = 768000;
constexpr int kMaxChannels = 64;
// MP3 files may start or end inside a frame (cut from a stream); more damage than that is an error.
constexpr int kToleratedMp3Errors = 2;

/// Converts any sample format to interleaved float at another rate, keeping the channels.
class Resampler {
 public:
  Resampler(const AVChannelLayout& layout, AVSampleFormat format, int from_rate, int to_rate)
      : channels_(layout.nb_channels) {
    ffmpeg::silence();
    SwrContext* context = nullptr;
    AVChannelLayout known = {};
    av_channel_layout_default(&known, layout.nb_channels);
    const int code = swr_alloc_set_opts2(&context, &known, AV_SAMPLE_FMT_FLT, to_rate, &known,
                                         format, from_rate, 0, nullptr);
    context_.reset(context);
    if (code < 0 || swr_init(context) < 0) {
      throw Error(ErrorCode::kUnsupported,
                  cat("cannot convert ", layout.nb_channels, " channels from ", from_rate,
                      " Hz to ", to_rate, " Hz"));
    }
  }

  /// Appends what `count` more input samples per channel give; null input flushes.
  void add(const uint8_t* const* planes, int count, std::vector<float>& out) {
    const int room = swr_get_out_samples(context_.get(), count);
    if (room <= 0) {
      return;
    }
    const size_t before = out.size(), channels = static_cast<size_t>(channels_);
    out.resize(before + static_cast<size_t>(room) * channels);
    auto* to = reinterpret_cast<uint8_t*>(out.data() + before);
    const int made =
        swr_convert(context_.get(), &to, room, const_cast<const uint8_t**>(planes), count);
    if (made < 0) {
      throw Error(ErrorCode::kInternal, cat("resampling: ", ffmpeg::error_text(made)));
    }
    out.resize(before + static_cast<size_t>(made) * channels);
  }

 private:
  ffmpeg::ResamplerPtr context_;
  int channels_;
};

void check_rate_and_channels(int sample_rate, int channels) {
  if (sample_rate < 0 || sample_rate > kMaxSampleRate) {
    throw Error(ErrorCode::kArgument,
                cat("sample rate ", sample_rate, " Hz is outside 0..", kMaxSampleRate));
  }
  if (channels < 0 || channels > 2) {
    throw Error(ErrorCode::kArgument, cat("channels must be 0 (keep), 1 or 2, got ", channels));
  }
}

/// [T, from] to [T, wanted]: the mean of all for one channel, a copy from one to two.
Array mix(const std::vector<float>& values, int from, int wanted, const std::string& where) {
  const int to = wanted == 0 ? from : wanted;
  const int64_t length = static_cast<int64_t>(values.size()) / from;
  if (to != from && to != 1 && from != 1) {
    throw Error(ErrorCode::kUnsupported,
                cat(where, ": cannot turn ", from, " channels into ", to, "; ask for 1"));
  }
  Array out = Array::zeros(DType::kF32, {length, to});
  float* samples = out.mutable_data<float>();
  for (int64_t t = 0; t < length; ++t) {
    const float* frame = values.data() + t * from;
    for (int c = 0; c < to; ++c) {
      if (to == from) {
        samples[t * to + c] = frame[c];
      } else if (from == 1) {
        samples[t * to + c] = frame[0];
      } else {
        double sum = 0.0;
        for (int i = 0; i < from; ++i) {
          sum += static_cast<double>(frame[i]);
        }
        samples[t] = static_cast<float>(sum / from);
      }
    }
  }
  return out;
}

class AudioDecoder {
 public:
  AudioDecoder(MediaInput& input, int index, const ReadAudioOptions& options)
      : input_(input), index_(index), options_(options), decoder_(input.open_decoder(index, 1)) {}

  Audio decode() {
    const ffmpeg::PacketPtr packet = ffmpeg::new_packet();
    bool more = true;
    while (more && input_.read(*packet, index_)) {
      const int code = avcodec_send_packet(decoder_.get(), packet.get());
      check_packet(code);
      more = code < 0 || drain();
    }
    if (more) {
      avcodec_send_packet(decoder_.get(), nullptr);
      drain();
      check_length();
    }
    if (!resampler_) {
      throw Error(ErrorCode::kFormat, cat(input_.where(), ": its sound stream holds no samples"));
    }
    resampler_->add(nullptr, 0, values_);
    return finish();
  }

 private:
  void check_packet(int code) {
    if (code >= 0 || (code == AVERROR_INVALIDDATA && input_.kind() == ContentKind::kMp3 &&
                      ++errors_ <= kToleratedMp3Errors)) {
      return;
    }
    throw Error(ErrorCode::kFormat,
                cat(input_.where(), ": damaged sound data: ", ffmpeg::error_text(code)));
  }

  /// Takes every finished frame; false once `max_seconds` is reached.
  bool drain() {
    const ffmpeg::FramePtr frame = ffmpeg::new_frame();
    for (;;) {
      const int code = avcodec_receive_frame(decoder_.get(), frame.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) {
        return true;
      }
      check_packet(code);
      if (code >= 0 && !take(*frame)) {
        return false;
      }
    }
  }

  bool take(const AVFrame& frame) {
    const int channels = frame.ch_layout.nb_channels;
    if (!resampler_) {
      if (channels < 1 || channels > kMaxChannels || frame.sample_rate < 1 ||
          frame.sample_rate > kMaxSampleRate) {
        throw Error(ErrorCode::kFormat, cat(input_.where(), ": impossible sound: ", channels,
                                            " channels at ", frame.sample_rate, " Hz"));
      }
      channels_ = channels;
      from_rate_ = frame.sample_rate;
      format_ = frame.format;
      rate_ = options_.sample_rate > 0 ? options_.sample_rate : from_rate_;
      resampler_.emplace(frame.ch_layout, static_cast<AVSampleFormat>(format_), from_rate_, rate_);
    }
    if (channels != channels_ || frame.sample_rate != from_rate_ || frame.format != format_) {
      throw Error(ErrorCode::kUnsupported,
                  cat(input_.where(), ": its sound changes from ", channels_, " channels at ",
                      from_rate_, " Hz to ", channels, " at ", frame.sample_rate, " Hz"));
    }
    decoded_ += frame.nb_samples;
    resampler_->add(frame.extended_data, frame.nb_samples, values_);
    if (static_cast<int64_t>(values_.size()) > options_.max_values) {
      throw Error(ErrorCode::kFormat,
                  cat(input_.where(), ": more than ", options_.max_values, " sound values"));
    }
    return options_.max_seconds <= 0.0 ||
           static_cast<double>(values_.size()) / channels_ <
               (options_.start_seconds + options_.max_seconds) * rate_;
  }

  /// FLAC states its number of samples; fewer means the file was cut between two frames.
  void check_length() const {
    const AVStream& stream = input_.stream(index_);
    if (input_.kind() != ContentKind::kFlac || stream.duration <= 0) {
      return;
    }
    const int64_t stated = av_rescale_q(stream.duration, stream.time_base, {1, from_rate_});
    if (decoded_ < stated) {
      throw Error(ErrorCode::kFormat, cat(input_.where(), ": truncated: ", decoded_, " of ", stated,
                                          " samples are there"));
    }
  }

  Audio finish() {
    const auto length = static_cast<int64_t>(values_.size()) / channels_;
    const auto samples_in = [&](double seconds) {
      return static_cast<int64_t>(
          std::llround(std::min(seconds * rate_, static_cast<double>(length))));
    };
    const int64_t begin = samples_in(options_.start_seconds);
    const int64_t end = options_.max_seconds > 0.0
                            ? samples_in(options_.start_seconds + options_.max_seconds)
                            : length;
    const Array all = mix(values_, channels_, options_.channels, input_.where());
    return {all.rows(begin, std::max(begin, end)).clone(), rate_};
  }

  MediaInput& input_;
  int index_;
  const ReadAudioOptions& options_;
  ffmpeg::CodecPtr decoder_;
  std::optional<Resampler> resampler_;
  std::vector<float> values_;
  int channels_ = 0, from_rate_ = 0, rate_ = 0, format_ = -1, errors_ = 0;
  int64_t decoded_ = 0;
};

}  // namespace

Audio read_audio(const std::filesystem::path& path, const ReadAudioOptions& options) {
  check_rate_and_channels(options.sample_rate, options.channels);
  if (!(options.start_seconds >= 0.0) || !(options.max_seconds >= 0.0)) {
    throw Error(ErrorCode::kArgument, cat("start and length of sound must not be negative, got ",
                                          options.start_seconds, " and ", options.max_seconds));
  }
  constexpr int64_t kCoverPixels = int64_t{1} << 26;
  MediaInput input(path,
                   {ContentKind::kWav, ContentKind::kFlac, ContentKind::kOgg, ContentKind::kMp3,
                    ContentKind::kMp4, ContentKind::kAvi},
                   "WAV, FLAC, Ogg or MP3 sound, or an MP4 or AVI film", kCoverPixels);
  const int index = input.best_stream(AVMEDIA_TYPE_AUDIO);
  if (index < 0) {
    throw Error(ErrorCode::kFormat, cat(input.where(), ": holds no sound"));
  }
  return AudioDecoder(input, index, options).decode();
}

Audio resample(const Audio& audio, int sample_rate, int channels) {
  check_rate_and_channels(sample_rate, channels);
  if (audio.samples.dim() != 2 || audio.samples.numel() == 0 || audio.channels() > kMaxChannels) {
    throw Error(ErrorCode::kArgument,
                cat("sound must be [T, channels], got ", shape_string(audio.samples.shape())));
  }
  if (audio.sample_rate < 1 || audio.sample_rate > kMaxSampleRate) {
    throw Error(ErrorCode::kArgument, cat("sound at ", audio.sample_rate, " Hz"));
  }
  const int to_rate = sample_rate == 0 ? audio.sample_rate : sample_rate;
  const auto from_channels = static_cast<int>(audio.channels());
  const float* from = audio.samples.data<float>();
  std::vector<float> values;
  if (to_rate == audio.sample_rate) {
    values.assign(from, from + audio.samples.numel());
  } else {
    AVChannelLayout layout = {};
    av_channel_layout_default(&layout, from_channels);
    Resampler resampler(layout, AV_SAMPLE_FMT_FLT, audio.sample_rate, to_rate);
    constexpr int64_t kChunk = 1 << 16;
    for (int64_t t = 0; t < audio.length(); t += kChunk) {
      const auto* chunk = reinterpret_cast<const uint8_t*>(from + t * from_channels);
      resampler.add(&chunk, static_cast<int>(std::min(kChunk, audio.length() - t)), values);
    }
    resampler.add(nullptr, 0, values);
  }
  return {mix(values, from_channels, channels, "sound"), to_rate};
}

}  // namespace perceiver::io
