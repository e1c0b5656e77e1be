#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "perceiver/base/progress.h"
#include "perceiver/io/audio.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/ranking.h"
#include "perceiver/tokens/engine.h"

// A film with its sound through the model and back.

namespace perceiver::tasks {

/// A clip as the model reads it.
struct Clip {
  Array frames;           ///< [T, S, S, 3] F32 in [0, 1], square
  Array audio;            ///< [samples, 1] F32 in [-1, 1]
  bool has_audio = true;  ///< false: the file has no sound, `audio` is silence
};

/// How much of a film is taken, in the form a model reads.
struct ClipShape {
  int64_t frames = 16;      ///< 0 = no pictures
  int64_t size = 224;       ///< side of the square in pixels
  int64_t samples = 30720;  ///< 0 = no sound
  int sample_rate = 48000;  ///< Hz
};

struct ReadClipOptions {
  double start_seconds = 0;
  double frames_per_second = 25;  ///< frames are picked at these times, whatever the file's rate
};

/// Reads as much of a film as the model takes: T frames of S x S from the centre, and the sound
/// that belongs to them at 48 kHz. A film too short shows its last frame on.
/// @throws Error(kArgument) when the model reads no film with sound; Error(kIo), Error(kFormat)
Clip read_clip(const ModelSpec& spec, const std::filesystem::path& path,
               const ReadClipOptions& options = {});

/// The same for any extents; what the shape does not ask for is left undefined.
Clip read_clip(const ClipShape& shape, const std::filesystem::path& path,
               const ReadClipOptions& options = {});

struct AutoencodeOptions {
  int64_t chunks = 128;     ///< decoder blocks, as in the released demonstration
  bool whole_grid = false;  ///< ask for all rows at once instead of by index; the model was
                            ///< released with the other (docs/quirks.md)
  int64_t top = 5;          ///< classes reported
  ProgressFn progress;      ///< called after each chunk
};

struct Reconstruction {
  Array frames;  ///< [T, S, S, 3] U8
  io::Audio audio;
  double video_psnr = 0;  ///< decibels against the clip; infinite for a perfect copy
  double audio_psnr = 0;  ///< with a peak of 1
  std::vector<Ranked> classes;
};

/// Encodes once, decodes in chunks.
Reconstruction autoencode(const Bundle& bundle, Engine& engine, const Clip& clip,
                          const AutoencodeOptions& options = {});

/// Inputs named image and audio (and optionally label), outputs of the same names.
bool is_video_autoencoder(const ModelSpec& spec);

/// 10 log10(peak^2 / mean squared error). @throws Error(kShape) when the counts differ
double psnr(const Array& a, const Array& b, double peak);

}  // namespace perceiver::tasks
