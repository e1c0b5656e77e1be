#pragma once

#include <cstdint>
#include <optional>

#include "perceiver/base/array.h"
#include "perceiver/tokens/image_processor.h"
#include "perceiver/train/recipe.h"
#include "train/data/augment.h"
#include "train/data/picture_crop.h"
#include "train/data/rand_augment.h"

namespace perceiver::train {

/// Random changes of one training picture, in the order in which they are made.
struct PictureAugmentSpec {
  std::optional<RandomCropSpec> crop;
  bool flip = false;  ///< half of the pictures are mirrored
  RandAugmentSpec rand_augment;
  // the picture gets the model's size here
  AugmentSpec affine;
  int64_t pad_crop = 0;  ///< pixels: padded by so many zeros, then cropped anywhere
};

/// Makes pictures of any size what a model reads, but for normalisation. Values are in the range of
/// the bytes; a plain resize may leave it.
class PicturePreparer {
 public:
  /// @param processor     says how pictures of another size are cropped and resized
  /// @param plain_resize  training: resize without antialiasing and clamping, as DeepMind does
  PicturePreparer(const PictureSize& size, const tokens::ImageProcessorConfig& processor,
                  bool plain_resize);

  /// As `processor` says: central crop and resize; a picture of the model's size stays as it is.
  /// @param picture  [h, w, c] bytes   @param out  [H, W, c]
  void for_evaluation(const Array& picture, float* out) const;
  /// The same with the changes of `spec` for the `drawn`-th picture of the run. A random crop
  /// replaces the central one.
  void for_training(const Array& picture, const PictureAugmentSpec& spec, uint64_t seed,
                    int64_t drawn, float* out) const;

 private:
  bool has_size(const Array& picture) const;

  PictureSize size_;
  tokens::ImageProcessorConfig processor_;
  tokens::ResizeStyle training_style_;
};

/// The recipe's preprocessor as an image processor.
/// @param resizes  whether pictures may come in other sizes: then it must resize to `size`
/// @throws Error(kFormat) naming the key that is missing, unknown or wrong
tokens::ImageProcessorConfig read_processor(const Recipe& recipe, const PictureSize& size,
                                            bool resizes);

}  // namespace perceiver::train
