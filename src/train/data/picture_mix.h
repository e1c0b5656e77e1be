#pragma once

#include <cstdint>

#include "train/data/augment.h"
#include "train/data/picture_crop.h"
#include "train/random.h"

namespace perceiver::train {

/// Two pictures made into one, with the labels of both.
struct PictureMixSpec {
  /// MixUp (Zhang et al., arXiv 1710.09412): weights from Beta(alpha, alpha); 0 = none.
  double mixup_alpha = 0;
  /// CutMix (Yun et al., arXiv 1905.04899): a box of the second picture in the first.
  bool cutmix = false;

  bool any() const { return mixup_alpha > 0 || cutmix; }
};

/// How one example of a batch is mixed.
struct PictureMix {
  double weight = 1;  ///< of the first picture's label; the second has the rest
  bool is_cut = false;
  CropBox box = {};  ///< is_cut: where the second picture is
};

/// With both kinds asked for, even examples get MixUp and odd ones CutMix: half of every batch
/// each, as DeepMind trains. CutMix's box has its share of the area drawn evenly and its middle
/// anywhere; what sticks out is cut off, and the weight is of what remains.
/// @param example  of the run, whatever the batch size
PictureMix draw_mix(const PictureMixSpec& spec, const PictureSize& size, int64_t example,
                    Random& random);

/// @param first, second  [H, W, c]; the result is in `first`
void mix(const PictureMix& mix, const PictureSize& size, const float* second, float* first);

/// From Beta(alpha, alpha). @param alpha  >= 0.001
double draw_beta(double alpha, Random& random);

}  // namespace perceiver::train
