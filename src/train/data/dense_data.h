#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "train/data/image_data.h"
#include "train/data/masked_pictures.h"
#include "train/data/segments.h"
#include "train/data/shapes.h"
#include "train/fields.h"

namespace perceiver::train {

enum class DenseFormat {
  kShapes,  ///< generated scenes
  kSeries,  ///< generated series whose state changes
  kFolder,  ///< pictures and masks
};

/// Where grids with a class at every place come from.
struct DenseDataSpec {
  DenseFormat format = DenseFormat::kShapes;
  ShapesSpec shapes;
  SegmentsSpec segments;
  MaskedFolder train, test;    ///< kFolder
  int64_t ignore_label = 255;  ///< kFolder
  PictureAugmentSpec augment;  ///< kFolder: crop and flip

  bool has_pictures() const { return format != DenseFormat::kSeries; }
};
DenseDataSpec read_dense_data(Fields fields, const std::filesystem::path& folder);

/// What the model reads and tells.
struct DenseGrid {
  std::vector<int64_t> extents;  ///< {H, W} or {T}
  int64_t channels = 1;
  int64_t classes = 2;

  int64_t places() const;
  int64_t values() const { return places() * channels; }
};

/// Examples of one part, asked for from several threads at once.
class DenseExamples {
 public:
  virtual ~DenseExamples() = default;
  virtual int64_t count() const = 0;
  /// @param drawn   which example of the run it is, for augmentation; < 0: without
  /// @param values  [extents..., channels]; pictures in 0..255
  /// @param labels  [extents...]; -1 = no class
  virtual void read(int64_t index, int64_t drawn, float* values, int64_t* labels) const = 0;
};

/// @throws Error(kArgument) when the data cannot have the grid's axes or classes; what the readers
///         throw
std::unique_ptr<DenseExamples> open_dense(const DenseDataSpec& spec, DataPart part,
                                          const DenseGrid& grid, uint64_t seed);

}  // namespace perceiver::train
