#pragma once

#include <cstdint>

#include "perceiver/base/array.h"

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

}  // namespace perceiver::tokens
