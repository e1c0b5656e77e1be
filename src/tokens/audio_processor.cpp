#include "perceiver/tokens/audio_processor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::tokens {
namespace {

void check_sound(const Array& samples) {
  if (samples.dim() != 2 || samples.size(1) < 1 || samples.dtype() != DType::kF32) {
    throw Error(ErrorCode::kShape,
                cat("sound must be [T, channels] F32, got ", shape_string(samples.shape()), " ",
                    dtype_name(samples.dtype())));
  }
}

// Names of classes, and wishes about the caller's arrays that change no value of ours.
constexpr std::array<std::string_view, 5> kIgnoredAudioKeys = {
    "feature_extractor_type", "processor_class", "padding_side", "return_attention_mask",
    "return_tensors"};
constexpr int kMaxSampleRate = 768000;

[[noreturn]] void bad_key(const std::string& where, const std::string& key, const char* wanted,
                          const Json& value) {
  throw Error(ErrorCode::kFormat,
              cat(where, ": ", printable(key), " must be ", wanted, ", got ",
                  printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60)));
}

// (x - mean) / sqrt(variance + 1e-7), as transformers' Wav2Vec2FeatureExtractor.
void normalize(float* values, int64_t count) {
  constexpr double kFloor = 1e-7;
  double sum = 0;
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += static_cast<double>(values[i]);
  }
  const double mean = count > 0 ? sum / static_cast<double>(count) : 0;
  for (int64_t i = 0; i < count; ++i) {
    const double distance = static_cast<double>(values[i]) - mean;
    squares += distance * distance;
  }
  const double variance = count > 0 ? squares / static_cast<double>(count) : 0;
  const double scale = 1 / std::sqrt(variance + kFloor);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>((static_cast<double>(values[i]) - mean) * scale);
  }
}

}  // namespace

Array fit_audio(const Array& samples, int64_t length, int64_t begin) {
  check_sound(samples);
  if (length < 1 || begin < 0) {
    throw Error(ErrorCode::kArgument, cat("cannot take ", length, " samples from sample ", begin));
  }
  const int64_t channels = samples.size(1);
  Array out = Array::zeros(DType::kF32, {length, channels});
  const int64_t first = std::min(begin, samples.size(0));
  const int64_t count = std::min(length, samples.size(0) - first);
  std::copy_n(samples.data<float>() + first * channels, count * channels,
              out.mutable_data<float>());
  return out;
}

Array mono(const Array& samples) {
  check_sound(samples);
  const int64_t channels = samples.size(1);
  Array out = Array::zeros(DType::kF32, {samples.size(0), 1});
  const float* from = samples.data<float>();
  for (int64_t t = 0; t < samples.size(0); ++t) {
    double sum = 0.0;
    for (int64_t c = 0; c < channels; ++c) {
      sum += static_cast<double>(*from++);
    }
    out.mutable_data<float>()[t] = static_cast<float>(sum / static_cast<double>(channels));
  }
  return out;
}

Array clamp_audio(const Array& samples) {
  Array out = Array::zeros(DType::kF32, samples.shape());
  const float* from = samples.data<float>();
  std::transform(from, from + samples.numel(), out.mutable_data<float>(), [](float value) {
    return std::isnan(value) ? 0.0F : std::clamp(value, -1.0F, 1.0F);
  });
  return out;
}

AudioProcessorConfig audio_processor_config_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) {
    throw Error(ErrorCode::kFormat, cat(where, ": expected a JSON object"));
  }
  AudioProcessorConfig config;
  for (const auto& [key, value] : json.items()) {
    if (key == "sampling_rate") {
      if (!value.is_number_integer() || value < 1 || value > kMaxSampleRate) {
        bad_key(where, key, "a whole number of Hz from 1 to 768000", value);
      }
      config.sampling_rate = value.get<int>();
    } else if (key == "do_normalize") {
      if (!value.is_boolean()) {
        bad_key(where, key, "true or false", value);
      }
      config.do_normalize = value.get<bool>();
    } else if (key == "feature_size" || key == "padding_value") {
      if (!value.is_number() || value != (key == "feature_size" ? 1 : 0)) {
        throw Error(ErrorCode::kUnsupported,
                    cat(where, ": ", key, " other than ", key == "feature_size" ? 1 : 0,
                        " is not supported"));
      }
    } else if (std::find(kIgnoredAudioKeys.begin(), kIgnoredAudioKeys.end(), key) ==
               kIgnoredAudioKeys.end()) {
      throw Error(ErrorCode::kFormat,
                  cat(where, ": unknown key '", printable(key),
                      "'; known: sampling_rate, do_normalize, feature_size, padding_value"));
    }
  }
  return config;
}

Array audio_window(const Array& samples, int64_t begin, int64_t length, bool do_normalize) {
  check_sound(samples);
  if (length < 1) {
    throw Error(ErrorCode::kArgument, cat("cannot take ", length, " samples of a sound"));
  }
  const int64_t channels = samples.size(1);
  const int64_t total = samples.size(0);
  Array out = Array::zeros(DType::kF32, {length, channels});
  const int64_t first = std::clamp<int64_t>(begin, 0, total);
  // compared without begin + length, which may not fit
  const int64_t lead = begin < 0 ? std::min(-std::max(begin, -length), length) : 0;
  const int64_t count = std::min(length - lead, total - first);
  float* heard = out.mutable_data<float>() + lead * channels;
  std::copy_n(samples.data<float>() + first * channels, count * channels, heard);
  if (do_normalize) {
    normalize(heard, count * channels);
  }
  return out;
}

std::vector<int64_t> spread_windows(int64_t total, int64_t length, int64_t count) {
  std::vector<int64_t> begins;
  const int64_t room = total - length;
  for (int64_t i = 0; i < count; ++i) {
    if (room <= 0 || count == 1) {
      begins.push_back(room >= 0 ? room / 2 : -(-room / 2));
    } else {
      begins.push_back(static_cast<int64_t>(std::llround(
          static_cast<double>(room) * static_cast<double>(i) / static_cast<double>(count - 1))));
    }
  }
  return begins;
}

}  // namespace perceiver::tokens
