#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"

namespace perceiver::tokens {

/// What the released multimodal model hears; resampling to this rate is the reader's work
/// (perceiver::io::ReadAudioOptions).
constexpr int kModelSampleRate = 48000;          ///< Hz
constexpr int64_t kModelSamplesPerFrame = 1920;  ///< at 25 frames per second
constexpr int64_t kModelAudioSamples = 30720;    ///< 16 frames

/// Exactly `length` samples from `begin` on: longer sound is cut, shorter sound followed by
/// silence.
/// @param samples  [T, channels] F32
/// @return         [length, channels] F32
/// @throws Error(kShape); Error(kArgument) for a negative begin or a length below 1
Array fit_audio(const Array& samples, int64_t length = kModelAudioSamples, int64_t begin = 0);

/// Mean of the channels, [T, channels] F32 -> [T, 1]. @throws Error(kShape)
Array mono(const Array& samples);

/// Highest sample allowed by [-1, 1] sound: clamps what a decoder or model overshot; NaN becomes 0.
/// @param samples  F32 of any shape
Array clamp_audio(const Array& samples);

/// How sound becomes a classifier's input, with transformers' names for it.
struct AudioProcessorConfig {
  int sampling_rate = kModelSampleRate;  ///< Hz
  bool do_normalize = false;             ///< mean 0 and variance 1 of what is heard of each sound
};

/// A preprocessor_config.json as transformers' feature extractors of raw sound write it.
/// @param where  the file, for messages
/// @throws Error(kFormat) for a wrong type or an unknown key, Error(kUnsupported) for padding with
///         other values than 0
AudioProcessorConfig audio_processor_config_from_json(const Json& json, const std::string& where);

/// `length` samples from `begin` on, silence where there is none: before the sound (a negative
/// `begin`) and after it. With do_normalize what is heard becomes (x - mean) / sqrt(variance +
/// 1e-7) over all channels, the silence around it stays 0.
/// @param samples  [T, channels] F32
/// @return         [length, channels] F32
/// @throws Error(kShape); Error(kArgument) for a length below 1
Array audio_window(const Array& samples, int64_t begin, int64_t length, bool do_normalize = false);

/// Where `count` windows of `length` samples begin in a sound of `total`: evenly spread from its
/// start to its end. One window alone lies in the middle, as do all of a sound no longer than one:
/// then `begin` is not above 0.
std::vector<int64_t> spread_windows(int64_t total, int64_t length, int64_t count);

}  // namespace perceiver::tokens
