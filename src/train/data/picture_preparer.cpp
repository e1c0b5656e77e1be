#include "train/data/picture_preparer.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

bool moves(const AugmentSpec& spec) {
  return spec.shift != 0 || spec.rotation != 0 || spec.scale != 0 || spec.shear != 0;
}

void copy_values(const Array& picture, float* out) {
  const Array values = picture.to(DType::kF32);
  std::copy_n(values.data<float>(), values.numel(), out);
}

Array to_bytes(const Array& picture) {
  if (picture.dtype() == DType::kU8) {
    return picture;
  }
  Array out = Array::zeros(DType::kU8, picture.shape());
  const float* from = picture.data<float>();
  std::transform(from, from + picture.numel(), out.mutable_data<uint8_t>(), [](float value) {
    return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0F, 255.0F)));
  });
  return out;
}

}  // namespace

PicturePreparer::PicturePreparer(const PictureSize& size,
                                 const tokens::ImageProcessorConfig& processor, bool plain_resize)
    : size_(size),
      processor_(processor),
      training_style_(plain_resize ? tokens::ResizeStyle::kTensorFlow : processor.resize_style) {
  processor_.size = {size.height, size.width};
  processor_.do_rescale = false;
  processor_.do_normalize = false;
}

bool PicturePreparer::has_size(const Array& picture) const {
  return picture.size(0) == size_.height && picture.size(1) == size_.width;
}

void PicturePreparer::for_evaluation(const Array& picture, float* out) const {
  copy_values(has_size(picture) ? picture : tokens::process_image(picture, processor_), out);
}

void PicturePreparer::for_training(const Array& picture, const PictureAugmentSpec& spec,
                                   uint64_t seed, int64_t drawn, float* out) const {
  Random random{seed, kPicture, static_cast<uint64_t>(drawn)};
  Array now = picture;
  if (spec.crop) {
    now = crop(now, draw_crop(*spec.crop, now.size(0), now.size(1), random));
  }
  if (spec.flip && random.uniform() < 0.5) {
    now = mirrored(now);
  }
  now = rand_augment(spec.rand_augment, now, random);
  if (!has_size(now)) {
    tokens::ImageProcessorConfig fit = processor_;
    fit.do_center_crop = fit.do_center_crop && !spec.crop;
    fit.resize_style = training_style_;
    now = tokens::process_image(now, fit);
  }
  if (moves(spec.affine)) {
    Random move{seed, kAugment, static_cast<uint64_t>(drawn)};
    augment(spec.affine, size_, move, to_bytes(now).data<uint8_t>(), out);
  } else {
    copy_values(now, out);
  }
  if (spec.pad_crop > 0) {
    const int64_t down = random.below(2 * spec.pad_crop + 1) - spec.pad_crop;
    const int64_t right = random.below(2 * spec.pad_crop + 1) - spec.pad_crop;
    shift(size_.height, size_.width, size_.channels, down, right, out);
  }
}

tokens::ImageProcessorConfig read_processor(const Recipe& recipe, const PictureSize& size,
                                            bool resizes) {
  const std::string where = cat(printable(recipe.path.string()), ": preprocessor");
  if (!recipe.preprocessor) {
    throw Error(ErrorCode::kFormat,
                cat(where, " is missing: it says how pictures are cropped and resized"));
  }
  const tokens::ImageProcessorConfig config =
      tokens::image_processor_config_from_json(*recipe.preprocessor, where);
  const bool fits = config.do_resize && config.size == tokens::ImageSize{size.height, size.width};
  if (resizes && !fits) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": pictures become ", config.do_resize ? "" : "(do_resize is false) ",
                    config.size.height, " x ", config.size.width, ", the model reads ", size.height,
                    " x ", size.width));
  }
  return config;
}

}  // namespace perceiver::train
