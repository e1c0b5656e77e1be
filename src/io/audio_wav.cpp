#include <algorithm>
#include <cmath>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/audio.h"

namespace perceiver::io {
namespace {

constexpr uint32_t kPcm = 1, kIeeeFloat = 3;

void append_le(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i) & 255));
  }
}

std::string wav_header(const Audio& audio, WavFormat format, uint64_t data_bytes) {
  const bool pcm = format == WavFormat::kInt16;
  const uint32_t sample_bytes = pcm ? 2 : 4;
  const auto channels = static_cast<uint32_t>(audio.channels());
  const auto rate = static_cast<uint32_t>(audio.sample_rate);
  std::string head = "RIFF";
  // Anything but PCM carries an extension size and a `fact` chunk with the length.
  const uint32_t format_bytes = pcm ? 16 : 18, fact_bytes = pcm ? 0 : 12;
  append_le(head, 4 + 8 + format_bytes + fact_bytes + 8 + data_bytes, 4);
  head += "WAVEfmt ";
  append_le(head, format_bytes, 4);
  append_le(head, pcm ? kPcm : kIeeeFloat, 2);
  append_le(head, channels, 2);
  append_le(head, rate, 4);
  append_le(head, uint64_t{rate} * channels * sample_bytes, 4);
  append_le(head, uint64_t{channels} * sample_bytes, 2);
  append_le(head, uint64_t{sample_bytes} * 8, 2);
  if (!pcm) {
    append_le(head, 0, 2);
    head += "fact";
    append_le(head, 4, 4);
    append_le(head, static_cast<uint64_t>(audio.length()), 4);
  }
  head += "data";
  append_le(head, data_bytes, 4);
  return head;
}

void append_samples(std::string& out, const float* values, int64_t count, WavFormat format) {
  for (int64_t i = 0; i < count; ++i) {
    if (format == WavFormat::kInt16) {
      const double scaled = std::nearbyint(static_cast<double>(values[i]) * 32768.0);
      const double safe = std::isnan(scaled) ? 0.0 : std::clamp(scaled, -32768.0, 32767.0);
      append_le(out, static_cast<uint16_t>(static_cast<int16_t>(safe)), 2);
    } else {
      uint32_t bits = 0;
      std::memcpy(&bits, &values[i], sizeof bits);
      append_le(out, bits, 4);
    }
  }
}

}  // namespace

void write_wav(const std::filesystem::path& path, const Audio& audio, WavFormat format) {
  if (audio.samples.dim() != 2 || audio.channels() < 1 || audio.channels() > 65535 ||
      audio.sample_rate < 1) {
    throw Error(ErrorCode::kArgument,
                cat("sound to write must be [T, channels] with a rate, got ",
                    shape_string(audio.samples.shape()), " at ", audio.sample_rate, " Hz"));
  }
  const uint64_t data_bytes =
      static_cast<uint64_t>(audio.samples.numel()) * (format == WavFormat::kInt16 ? 2 : 4);
  if (data_bytes > 0xFFFFFFFFU - 128) {
    throw Error(ErrorCode::kArgument, "sound over 4 GiB does not fit a WAV file");
  }
  const float* values = audio.samples.data<float>();
  write_file_atomically(path, [&](const std::function<void(std::string_view)>& sink) {
    sink(wav_header(audio, format, data_bytes));
    constexpr int64_t kChunk = 1 << 16;
    std::string chunk;
    for (int64_t i = 0; i < audio.samples.numel(); i += kChunk) {
      chunk.clear();
      append_samples(chunk, values + i, std::min(kChunk, audio.samples.numel() - i), format);
      sink(chunk);
    }
  });
}

}  // namespace perceiver::io
