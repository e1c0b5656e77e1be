#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "train/data/augment.h"
#include "train/data/picture_preparer.h"

namespace perceiver::train {

/// Pictures and, in a folder of its own, a mask of each: a grey 8-bit PNG of the same name and size
/// whose values are classes.
struct MaskedFolder {
  std::filesystem::path pictures, masks;
};

struct MaskedPicture {
  std::string picture, mask;  ///< paths
};

/// Pairs in order of their names.
/// @throws Error(kIo) naming the first picture without a mask; Error(kFormat) for no pictures
std::vector<MaskedPicture> list_masked(const MaskedFolder& folder);

/// What of a mask counts.
struct MaskClasses {
  int64_t classes = 0;
  int64_t ignored = 255;  ///< pixels of this value have no class
};

/// Reads a pair, crops and mirrors both alike (Random of the `drawn`-th example; drawn < 0: not at
/// all) and resizes them to the model's grid: the picture by PIL's bicubic filter, the mask to the
/// nearest pixel.
/// @param values  [H, W, c], 0..255   @param labels  [H, W]; -1 = no class
/// @throws Error(kIo), Error(kFormat) naming the file
void read_masked(const MaskedPicture& pair, const PictureSize& size, const MaskClasses& classes,
                 const PictureAugmentSpec& augment, uint64_t seed, int64_t drawn, float* values,
                 int64_t* labels);

}  // namespace perceiver::train
