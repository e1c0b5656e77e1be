#include "train/data/sound_files.h"

#include <algorithm>
#include <cmath>

#include "perceiver/io/audio.h"
#include "perceiver/tokens/audio_processor.h"

namespace perceiver::train {

std::shared_ptr<const Array> SoundFiles::read(int64_t index) {
  const auto decode = [&] {
    io::ReadAudioOptions options;
    options.sample_rate = format_.sample_rate;
    options.channels = format_.channels;
    options.max_seconds = format_.max_seconds;
    return io::read_audio(file(index).path, options).samples;
  };
  return cache_.get(index, decode, [](const Array& samples) { return samples.nbytes(); });
}

Array change_speed(const Array& samples, double factor) {
  const int64_t total = samples.size(0);
  const int64_t channels = samples.size(1);
  const auto length = static_cast<int64_t>(std::floor(static_cast<double>(total) / factor));
  Array out = Array::zeros(DType::kF32, {std::max<int64_t>(length, 1), channels});
  const float* from = samples.data<float>();
  float* to = out.mutable_data<float>();
  for (int64_t t = 0; t < length; ++t) {
    const double place = static_cast<double>(t) * factor;
    const int64_t left = std::min(static_cast<int64_t>(place), total - 1);
    const int64_t right = std::min(left + 1, total - 1);
    const auto share = static_cast<float>(place - static_cast<double>(left));
    for (int64_t c = 0; c < channels; ++c) {
      const float a = from[left * channels + c];
      *to++ = a + share * (from[right * channels + c] - a);
    }
  }
  return out;
}

Array training_window(const Array& samples, int64_t length, bool do_normalize,
                      const SoundAugmentSpec& spec, Random& random) {
  Array sound = samples;
  if (spec.speed > 0) {
    sound = change_speed(samples, 1 + random.uniform(-spec.speed, spec.speed));
  }
  const int64_t room = sound.size(0) - length;
  int64_t begin = tokens::spread_windows(sound.size(0), length, 1)[0];
  if (spec.crop) {
    begin = room >= 0 ? random.below(room + 1) : -random.below(1 - room);
  }
  Array window = tokens::audio_window(sound, begin, length, do_normalize);
  if (spec.gain_db > 0) {
    const double decibels = random.uniform(-spec.gain_db, spec.gain_db);
    const auto gain = static_cast<float>(std::pow(10.0, decibels / 20));
    float* values = window.mutable_data<float>();
    std::transform(values, values + window.numel(), values, [&](float v) { return v * gain; });
  }
  return window;
}

}  // namespace perceiver::train
