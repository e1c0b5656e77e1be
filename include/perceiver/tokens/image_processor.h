#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"

namespace perceiver::tokens {

/// Resampling filters by PIL's numbers, as `preprocessor_config.json` writes them.
enum class ResampleFilter : int {
  kLanczos = 1,
  kBilinear = 2,
  kBicubic = 3,
  kBox = 4,
  kHamming = 5
};

/// Whose resizing is reproduced.
enum class ResizeStyle {
  kPil,     ///< antialiased; width first, each pass rounded to 8 bits: transformers' PIL backend
  kOpenCv,  ///< cv2.resize on 8 bits, no antialiasing: DeepMind's colab (INTER_CUBIC, a = -0.75)
  kTensorFlow,  ///< tf.image.resize on floats, no antialiasing, not clamped: DeepMind's training
                ///< input
};

/// Where the central crop starts when the border is odd.
enum class CropStart {
  kFloor,  ///< (H - crop) / 2 rounded down: transformers
  kCeil,   ///< rounded up: DeepMind
};

struct ImageSize {
  int64_t height = 0, width = 0;
  bool operator==(const ImageSize&) const = default;
};

/// Everything of `preprocessor_config.json`, with transformers' PerceiverImageProcessor defaults,
/// and the two switches that select DeepMind's variants (not part of that file).
struct ImageProcessorConfig {
  bool do_center_crop = true;
  bool do_resize = true;
  bool do_rescale = true;
  bool do_normalize = true;
  ImageSize size{224, 224};       ///< result of the resize
  ImageSize crop_size{256, 256};  ///< the crop takes size / crop_size of the shorter side
  ResampleFilter resample = ResampleFilter::kBicubic;
  double rescale_factor = 1.0 / 255.0;
  std::vector<double> image_mean{0.485, 0.456, 0.406};  ///< one value, or one per channel
  std::vector<double> image_std{0.229, 0.224, 0.225};
  ResizeStyle resize_style = ResizeStyle::kPil;
  CropStart crop_start = CropStart::kFloor;

  bool operator==(const ImageProcessorConfig&) const = default;
};

/// Reads a `preprocessor_config.json`: sizes as one integer, [height, width] or an object. Keys
/// that only name classes or describe the caller's side are skipped (image_processor_type,
/// feature_extractor_type, processor_class, data_format "channels_first", ...); `do_pad: true` and
/// every unknown key are errors.
/// @param where  file name for messages
/// @throws Error(kFormat) naming the key; Error(kUnsupported) for a valid choice not implemented
ImageProcessorConfig image_processor_config_from_json(const Json& json, const std::string& where);

/// The same keys transformers writes. @throws Error(kArgument) for one of DeepMind's variants
Json image_processor_config_to_json(const ImageProcessorConfig& config);

/// One picture ready for a vision model: central crop, resize, scale, normalise, each as
/// configured. With the PIL style equal to transformers' PIL backend in every 8-bit level and
/// float.
/// @param image  [H, W, C] U8
/// @return       [size.height, size.width, C] F32 (H, W of the input where nothing resizes)
/// @throws Error(kShape) for another rank or dtype, or a channel count that the mean does not fit;
///         Error(kArgument) when the crop leaves nothing of a tiny picture
Array process_image(const Array& image, const ImageProcessorConfig& config = {});

/// The central `size` of a picture; where the picture is smaller it is surrounded by zeros.
/// @param image  [H, W, C], any dtype
Array center_crop(const Array& image, const ImageSize& size, CropStart start = CropStart::kFloor);

/// @param image  [H, W, C] U8
/// @return       [size.height, size.width, C], U8; F32 in 0..255 (and beyond) for kTensorFlow
/// @throws Error(kShape); Error(kUnsupported) for a filter that style does not have
Array resize_image(const Array& image, const ImageSize& size, ResampleFilter filter,
                   ResizeStyle style = ResizeStyle::kPil);

}  // namespace perceiver::tokens
