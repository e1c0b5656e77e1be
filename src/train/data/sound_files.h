#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "perceiver/base/array.h"
#include "train/data/byte_cache.h"
#include "train/data/labelled_files.h"
#include "train/random.h"

namespace perceiver::train {

/// How sounds are read, the same for all.
struct SoundFormat {
  int sample_rate = 0;      ///< Hz to resample to
  int channels = 1;         ///< 1 or 2
  double max_seconds = 30;  ///< of each file; what lies behind is not heard
};

/// Labelled sounds, decoded when they are asked for and kept while they fit a number of bytes. May
/// be read from several threads.
class SoundFiles {
 public:
  /// @param cache_bytes  0 = every read decodes
  SoundFiles(std::vector<LabelledFile> files, const SoundFormat& format, int64_t cache_bytes)
      : files_(std::move(files)), format_(format), cache_(cache_bytes) {}

  int64_t count() const { return static_cast<int64_t>(files_.size()); }
  const LabelledFile& file(int64_t index) const { return files_[static_cast<size_t>(index)]; }
  /// [T, channels] F32. @throws what io::read_audio() throws
  std::shared_ptr<const Array> read(int64_t index);

 private:
  std::vector<LabelledFile> files_;
  SoundFormat format_;
  ByteCache<Array> cache_;
};

/// Random changes of training sounds.
struct SoundAugmentSpec {
  bool crop = true;    ///< a random part, or a random place in silence; else the middle
  double gain_db = 0;  ///< louder or softer by up to so many decibels
  double speed = 0;    ///< faster or slower by up to this fraction, pitch and all
};

/// What a model hears of a sound in training: `length` samples, changed as `spec` says.
/// @param samples       [T, channels] F32
/// @param do_normalize  as in tokens::audio_window(); the gain comes after it
/// @return              [length, channels] F32
Array training_window(const Array& samples, int64_t length, bool do_normalize,
                      const SoundAugmentSpec& spec, Random& random);

/// `samples` played `factor` times as fast, by linear interpolation. @param factor  > 0
Array change_speed(const Array& samples, double factor);

}  // namespace perceiver::train
