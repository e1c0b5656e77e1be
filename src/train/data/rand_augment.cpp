#include "train/data/rand_augment.h"

#include <cmath>

namespace perceiver::train {
namespace {

constexpr double kMaxMagnitude = 10;

bool has_two_directions(PictureOp op) {
  switch (op) {
    case PictureOp::kRotate:
    case PictureOp::kShearX:
    case PictureOp::kShearY:
    case PictureOp::kTranslateX:
    case PictureOp::kTranslateY:
      return true;
    default:
      return false;
  }
}

}  // namespace

double amount_of(PictureOp op, const RandAugmentSpec& spec) {
  const double strength = spec.magnitude / kMaxMagnitude;
  switch (op) {
    case PictureOp::kRotate:
      return strength * 30;
    case PictureOp::kPosterize:
      return std::floor(strength * 4);
    case PictureOp::kSolarize:
      return std::floor(strength * 256);
    case PictureOp::kColor:
    case PictureOp::kContrast:
    case PictureOp::kBrightness:
    case PictureOp::kSharpness:
      return strength * 1.8 + 0.1;
    case PictureOp::kShearX:
    case PictureOp::kShearY:
      return strength * 0.3;
    case PictureOp::kTranslateX:
    case PictureOp::kTranslateY:
      return strength * spec.translation;
    case PictureOp::kCutout:
      return std::floor(strength * spec.cutout);
    case PictureOp::kSolarizeAdd:
      return std::floor(strength * 110);
    case PictureOp::kAutoContrast:
    case PictureOp::kEqualize:
    case PictureOp::kInvert:
      break;
  }
  return 0;
}

Array rand_augment(const RandAugmentSpec& spec, const Array& picture, Random& random) {
  Array changed = picture;
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto op = static_cast<PictureOp>(random.below(kPictureOps));
    PictureOpArguments arguments{amount_of(op, spec), 0, 0};
    if (has_two_directions(op) && random.uniform() < 0.5) {
      arguments.amount = -arguments.amount;
    }
    if (op == PictureOp::kCutout) {
      arguments.row = random.below(picture.size(0));
      arguments.column = random.below(picture.size(1));
    }
    changed = apply(op, changed, arguments);
  }
  return changed;
}

}  // namespace perceiver::train
