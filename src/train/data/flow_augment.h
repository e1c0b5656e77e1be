#pragma once

#include <cstdint>

#include "train/data/flow_pair.h"
#include "train/random.h"

namespace perceiver::train {

/// Random changes of a training pair, the kinds of RAFT's FlowAugmentor. Everything is off by
/// default. Amounts are drawn evenly; a factor of strength s lies in [1 - s, 1 + s].
struct FlowAugmentSpec {
  // Colours. Both frames change alike, or each on its own with probability `asymmetric`.
  double brightness = 0, contrast = 0, saturation = 0;
  double hue = 0;         ///< turns of the colour wheel, at most 0.5
  double asymmetric = 0;  ///< probability
  // Eraser: one or two rectangles of the second frame take its mean colour, as if something stood
  // there. The flow stays what it is.
  double eraser = 0;                         ///< probability
  double eraser_min = 50, eraser_max = 100;  ///< pixels of each side
  // Size: frames (and flow) are enlarged by 2^s, s in [scale_min, scale_max], each axis then by
  // 2^[-stretch, stretch]; never to less than what the model reads.
  double scale_probability = 0, scale_min = 0, scale_max = 0;
  double stretch_probability = 0, stretch = 0;
  double flip_horizontal = 0, flip_vertical = 0;  ///< probabilities
};

/// Where the model's tile comes from when frames are larger.
enum class CropPlace { kRandom, kMiddle };

/// One training example of the model's size. A function of the pair and the random numbers alone.
/// Flow follows every change of geometry: between pixels it is interpolated where the four around
/// are valid and differ by less than a pixel, and otherwise taken from the nearest, so that motion
/// edges stay edges and sparse flow stays sparse.
/// @return frames, flow and occlusion of `size`; frames too small are extended as in crop()
FlowPair augment_flow(const FlowPair& pair, const FlowAugmentSpec& spec, CropPlace place,
                      const tokens::TileSize& size, Random& random);

}  // namespace perceiver::train
