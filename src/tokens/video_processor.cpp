#include "perceiver/tokens/video_processor.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/image_processor.h"

namespace perceiver::tokens {
namespace {

/// The cut of the colab rounds both halves down, so it starts one pixel later than center_crop()
/// when the long side is even and the short side odd.
Array central_square(const Array& frame) {
  const int64_t height = frame.size(0), width = frame.size(1), side = std::min(height, width);
  const int64_t top = height / 2 - side / 2, left = width / 2 - side / 2;
  const Array rows = frame.rows(top, top + side);
  Array out = Array::zeros(DType::kU8, {side, side, 3});
  for (int64_t y = 0; y < side; ++y) {
    std::copy_n(rows.data<uint8_t>() + (y * width + left) * 3, side * 3,
                out.mutable_data<uint8_t>() + y * side * 3);
  }
  return out;
}

}  // namespace

Array process_video(const Array& frames, const VideoProcessorConfig& config) {
  if (frames.dim() != 4 || frames.size(3) != 3 || frames.dtype() != DType::kU8 ||
      frames.numel() == 0) {
    throw Error(ErrorCode::kShape,
                cat("film frames must be [T, H, W, 3] U8, got ", shape_string(frames.shape()), " ",
                    dtype_name(frames.dtype())));
  }
  if (config.num_frames < 0 || config.size < 1) {
    throw Error(ErrorCode::kArgument,
                cat("cannot make ", config.num_frames, " frames of side ", config.size));
  }
  const int64_t have = frames.size(0);
  const int64_t want = config.num_frames == 0 ? have : config.num_frames;
  if (have < want && !config.repeat_last) {
    throw Error(ErrorCode::kArgument,
                cat("the film has ", have, " frames but ", want, " are needed"));
  }
  Array out = Array::zeros(DType::kF32, {want, config.size, config.size, 3});
  const int64_t frame_values = config.size * config.size * 3;
  float* to = out.mutable_data<float>();
  for (int64_t t = 0; t < want; ++t, to += frame_values) {
    if (t >= have) {
      std::copy_n(to - frame_values, frame_values, to);
      continue;
    }
    const Array frame = frames.rows(t, t + 1).reshape({frames.size(1), frames.size(2), 3});
    const Array small = resize_image(central_square(frame), {config.size, config.size},
                                     ResampleFilter::kBilinear, ResizeStyle::kOpenCv);
    const uint8_t* levels = small.data<uint8_t>();
    std::transform(levels, levels + frame_values, to,
                   [](uint8_t level) { return static_cast<float>(level) / 255.0F; });
  }
  return out;
}

Array frames_to_bytes(const Array& frames) {
  Array out = Array::zeros(DType::kU8, frames.shape());
  const float* from = frames.data<float>();
  std::transform(from, from + frames.numel(), out.mutable_data<uint8_t>(), [](float value) {
    const float safe = std::isnan(value) ? 0.0F : std::clamp(value, 0.0F, 1.0F);
    return static_cast<uint8_t>(std::lround(safe * 255.0F));
  });
  return out;
}

}  // namespace perceiver::tokens
