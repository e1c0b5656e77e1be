#pragma once

#include <cstdint>

#include "perceiver/base/array.h"

namespace perceiver::train {

/// The sixteen changes RandAugment draws from (Cubuk et al., arXiv 1909.13719, with the Cutout and
/// SolarizeAdd of the TensorFlow code that DeepMind trains with). Pictures are [H, W, c] bytes, c
/// is 1 or 3, and stay that size; what comes in from outside is mid grey, 128.
enum class PictureOp {
  kAutoContrast,  ///< every channel stretched to 0..255
  kEqualize,      ///< every channel's histogram flattened
  kInvert,        ///< 255 - v
  kRotate,        ///< about the centre; amount in degrees, nearest pixel
  kPosterize,     ///< amount = bits kept
  kSolarize,      ///< values of `amount` and above are inverted
  kColor,         ///< away from its grey by the factor `amount`; 1 changes nothing
  kContrast,      ///< away from its mean lightness by the factor
  kBrightness,    ///< away from black by the factor
  kSharpness,     ///< away from its blurred self by the factor; the border row stays
  kShearX,        ///< row y moves by amount * y
  kShearY,        ///< column x moves by amount * x
  kTranslateX,    ///< pixels
  kTranslateY,
  kCutout,       ///< a grey square of 2 * amount about (row, column), cut at the border
  kSolarizeAdd,  ///< values below 128 rise by `amount`, at most to 255
};
constexpr int64_t kPictureOps = 16;

struct PictureOpArguments {
  double amount = 0;
  int64_t row = 0, column = 0;  ///< kCutout
};

Array apply(PictureOp op, const Array& picture, const PictureOpArguments& arguments);

}  // namespace perceiver::train
