#include "perceiver/tokens/audio_processor.h"

#include <algorithm>
#include <cmath>

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

}  // namespace perceiver::tokens
