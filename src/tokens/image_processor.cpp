#include "perceiver/tokens/image_processor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "tokens/resample.h"

namespace perceiver::tokens {
namespace {

void check_picture(const Array& image, DType dtype) {
  if (image.dim() != 3 || image.numel() == 0 || image.dtype() != dtype) {
    throw Error(ErrorCode::kShape,
                cat("a picture must be [H, W, C] ", dtype_name(dtype), ", got ",
                    shape_string(image.shape()), " ", dtype_name(image.dtype())));
  }
}

/// Part of [0, have) that a crop of `want` covers, and where it lands in the result.
struct CropSpan {
  int64_t from = 0, to = 0, count = 0;
};

CropSpan crop_span(int64_t have, int64_t want, CropStart start) {
  if (want <= have) {
    const int64_t border = have - want;
    return {start == CropStart::kCeil ? (border + 1) / 2 : border / 2, 0, want};
  }
  // An odd row of zeros goes before a smaller picture, as in transformers.
  return {0, (want - have + 1) / 2, have};
}

ImageSize crop_size_of(const ImageProcessorConfig& config, int64_t height, int64_t width) {
  const auto part = [&](int64_t size, int64_t crop) {
    return static_cast<int64_t>(static_cast<double>(size) / static_cast<double>(crop) *
                                static_cast<double>(std::min(height, width)));
  };
  const ImageSize size{part(config.size.height, config.crop_size.height),
                       part(config.size.width, config.crop_size.width)};
  if (size.height < 1 || size.width < 1) {
    throw Error(ErrorCode::kArgument, cat("the central crop leaves nothing of a picture of ", width,
                                          "x", height, " pixels"));
  }
  return size;
}

/// The value of channel `c`; one value serves all channels.
float channel_value(const std::vector<double>& values, int64_t c) {
  return static_cast<float>(values.size() == 1 ? values[0] : values[static_cast<size_t>(c)]);
}

void check_channels(const char* name, const std::vector<double>& values, int64_t channels) {
  if (values.size() != 1 && static_cast<int64_t>(values.size()) != channels) {
    throw Error(ErrorCode::kShape, cat(name, " has ", values.size(), " values but the picture has ",
                                       channels, " channels"));
  }
}

/// Float steps in transformers' order and precision: scaled in double and rounded to float, then
/// normalised in float.
Array to_float(const Array& levels, const ImageProcessorConfig& config) {
  const int64_t channels = levels.size(2);
  if (config.do_normalize) {
    check_channels("image_mean", config.image_mean, channels);
    check_channels("image_std", config.image_std, channels);
  }
  const Array values = levels.to(DType::kF32);
  Array out = Array::zeros(DType::kF32, levels.shape());
  const float* from = values.data<float>();
  float* to = out.mutable_data<float>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    const int64_t c = i % channels;
    float value = from[i];
    if (config.do_rescale) {
      value = static_cast<float>(static_cast<double>(value) * config.rescale_factor);
    }
    if (config.do_normalize) {
      value = (value - channel_value(config.image_mean, c)) / channel_value(config.image_std, c);
    }
    to[i] = value;
  }
  return out;
}

}  // namespace

Array center_crop(const Array& image, const ImageSize& size, CropStart start) {
  if (image.dim() != 3 || size.height < 1 || size.width < 1) {
    throw Error(ErrorCode::kShape, cat("cannot crop ", shape_string(image.shape()), " to ",
                                       size.width, "x", size.height));
  }
  const int64_t width = image.size(1), channels = image.size(2);
  const CropSpan rows = crop_span(image.size(0), size.height, start);
  const CropSpan columns = crop_span(width, size.width, start);
  Array out = Array::zeros(image.dtype(), {size.height, size.width, channels});
  const int64_t pixel_bytes = channels * dtype_size(image.dtype());
  for (int64_t y = 0; y < rows.count; ++y) {
    std::memcpy(out.mutable_bytes() + ((rows.to + y) * size.width + columns.to) * pixel_bytes,
                image.bytes() + ((rows.from + y) * width + columns.from) * pixel_bytes,
                static_cast<size_t>(columns.count * pixel_bytes));
  }
  return out;
}

Array resize_image(const Array& image, const ImageSize& size, ResampleFilter filter,
                   ResizeStyle style) {
  check_picture(image, DType::kU8);
  if (size.height < 1 || size.width < 1) {
    throw Error(ErrorCode::kShape, cat("cannot resize to ", size.width, "x", size.height));
  }
  switch (style) {
    case ResizeStyle::kOpenCv:
      return resize_opencv(image, size, filter);
    case ResizeStyle::kTensorFlow:
      return resize_tensorflow(image, size, filter);
    case ResizeStyle::kPil:
      break;
  }
  return resize_pil(image, size, filter);
}

Array process_image(const Array& image, const ImageProcessorConfig& config) {
  check_picture(image, DType::kU8);
  Array levels = image;
  if (config.do_center_crop) {
    levels =
        center_crop(levels, crop_size_of(config, image.size(0), image.size(1)), config.crop_start);
  }
  if (config.do_resize) {
    levels = resize_image(levels, config.size, config.resample, config.resize_style);
  }
  return to_float(levels, config);
}

}  // namespace perceiver::tokens
