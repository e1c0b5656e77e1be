#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Sound, channels last.
struct Audio {
  Array samples;  ///< [T, channels] F32, full scale is [-1, 1] (int16 / 32768); lossy codecs may
                  ///< exceed it slightly
  int sample_rate = 0;  ///< Hz

  int64_t length() const { return samples.size(0); }
  int64_t channels() const { return samples.size(1); }
  double seconds() const { return static_cast<double>(length()) / sample_rate; }
};

struct ReadAudioOptions {
  int sample_rate = 0;         ///< Hz to resample to; 0 keeps the file's
  int channels = 0;            ///< 0 keeps, 1 averages all channels, 2 keeps stereo or doubles mono
  double start_seconds = 0.0;  ///< drop what lies before
  double max_seconds = 0.0;    ///< stop there, a longer file is no error; 0 reads to the end
  int64_t max_values = int64_t{1} << 28;  ///< samples times channels; more is an error (1 GiB)
};

/// Reads WAV (8, 16, 24, 32 bit integer, float), FLAC, Ogg Vorbis or Opus, MP3, or the best sound
/// stream of an MP4 / MOV / AVI file. Decided by content, never by name. Encoder delay and padding
/// of lossy formats are cut where the file states them. Resampling is libswresample's default
/// windowed sinc, as `ffmpeg -ar` does it.
/// @throws Error(kIo) unreadable; Error(kFormat) truncated, damaged, no sound in it, over a limit;
///         Error(kUnsupported) another container or codec
Audio read_audio(const std::filesystem::path& path, const ReadAudioOptions& options = {});

/// Another rate and channel count (same meaning as above) of sound already in memory.
/// @throws Error(kArgument)
Audio resample(const Audio& audio, int sample_rate, int channels = 0);

enum class WavFormat { kInt16, kFloat32 };

/// Writes RIFF/WAVE whole or not at all. 16-bit values are round(x * 32768) clamped to the range.
/// @throws Error(kIo); Error(kArgument) for a bad rate or more than 4 GiB
void write_wav(const std::filesystem::path& path, const Audio& audio,
               WavFormat format = WavFormat::kInt16);

}  // namespace perceiver::io
