#pragma once

#include <cstdint>

#include "train/data/augment.h"
#include "train/random.h"

namespace perceiver::train {

/// Scenes of textured discs, squares and triangles over a textured background. Colours, textures,
/// sizes and turns are random, so that only its outline tells what a pixel belongs to.
struct ShapesSpec {
  int64_t train_examples = 1 << 20;
  int64_t test_examples = 256;
  int64_t max_shapes = 3;  ///< 1 to so many, later ones in front
  double noise = 12;       ///< levels, evenly from minus to plus
};

/// 0 background, 1 disc, 2 square, 3 triangle.
constexpr int64_t kShapeClasses = 4;

/// @param values  [H, W, c], 0..255   @param labels  [H, W]
void draw_scene(const ShapesSpec& spec, const PictureSize& size, Random& random, float* values,
                int64_t* labels);

}  // namespace perceiver::train
