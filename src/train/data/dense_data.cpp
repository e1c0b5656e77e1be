#include "train/data/dense_data.h"

#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

PictureSize picture_size(const DenseGrid& grid) {
  return {grid.extents[0], grid.extents[1], grid.channels};
}

// Test examples follow the training ones.
class Scenes : public DenseExamples {
 public:
  Scenes(const ShapesSpec& spec, DataPart part, const PictureSize& size, uint64_t seed)
      : spec_(spec), size_(size), seed_(seed), test_(part == DataPart::kTest) {}
  int64_t count() const override { return test_ ? spec_.test_examples : spec_.train_examples; }
  void read(int64_t index, int64_t /*drawn*/, float* values, int64_t* labels) const override {
    const int64_t scene = index + (test_ ? spec_.train_examples : 0);
    Random random{seed_, kScene, static_cast<uint64_t>(scene)};
    draw_scene(spec_, size_, random, values, labels);
  }

 private:
  ShapesSpec spec_;
  PictureSize size_;
  uint64_t seed_;
  bool test_;
};

class Series : public DenseExamples {
 public:
  Series(const SegmentsSpec& spec, DataPart part, DenseGrid grid, uint64_t seed)
      : spec_(spec), grid_(std::move(grid)), seed_(seed), test_(part == DataPart::kTest) {}
  int64_t count() const override { return test_ ? spec_.test_examples : spec_.train_examples; }
  void read(int64_t index, int64_t /*drawn*/, float* values, int64_t* labels) const override {
    const int64_t series = index + (test_ ? spec_.train_examples : 0);
    Random random{seed_, kSegments, static_cast<uint64_t>(series)};
    draw_segments(spec_, grid_.extents[0], grid_.channels, grid_.classes, random, values, labels);
  }

 private:
  SegmentsSpec spec_;
  DenseGrid grid_;
  uint64_t seed_;
  bool test_;
};

class MaskedPictures : public DenseExamples {
 public:
  MaskedPictures(const DenseDataSpec& spec, DataPart part, const DenseGrid& grid, uint64_t seed)
      : pairs_(list_masked(part == DataPart::kTrain ? spec.train : spec.test)),
        size_(picture_size(grid)),
        classes_({grid.classes, spec.ignore_label}),
        augment_(spec.augment),
        seed_(seed) {}
  int64_t count() const override { return static_cast<int64_t>(pairs_.size()); }
  void read(int64_t index, int64_t drawn, float* values, int64_t* labels) const override {
    read_masked(pairs_[static_cast<size_t>(index)], size_, classes_, augment_, seed_, drawn, values,
                labels);
  }

 private:
  std::vector<MaskedPicture> pairs_;
  PictureSize size_;
  MaskClasses classes_;
  PictureAugmentSpec augment_;
  uint64_t seed_;
};

void check_axes(const DenseGrid& grid, size_t axes, const char* data) {
  if (grid.extents.size() != axes) {
    throw Error(ErrorCode::kArgument, cat("data.format ", data, " needs a model that reads ", axes,
                                          axes == 1 ? " axis" : " axes", ", this one reads ",
                                          shape_string(grid.extents)));
  }
}

void read_counts(Fields& fields, int64_t& train, int64_t& test) {
  train = fields.integer("train_examples", train, 1, int64_t{1} << 40);
  test = fields.integer("test_examples", test, 1, int64_t{1} << 40);
}

}  // namespace

int64_t DenseGrid::places() const {
  int64_t count = 1;
  for (const int64_t extent : extents) {
    count *= extent;
  }
  return count;
}

DenseDataSpec read_dense_data(Fields fields, const std::filesystem::path& folder) {
  DenseDataSpec spec;
  fields.at("format");
  constexpr DenseFormat kFormats[] = {DenseFormat::kShapes, DenseFormat::kSeries,
                                      DenseFormat::kFolder};
  spec.format = kFormats[fields.choice("format", 0, {"shapes", "series", "folder"})];
  switch (spec.format) {
    case DenseFormat::kShapes:
      read_counts(fields, spec.shapes.train_examples, spec.shapes.test_examples);
      spec.shapes.max_shapes = fields.integer("max_shapes", spec.shapes.max_shapes, 1, 1000);
      spec.shapes.noise = fields.number("noise", spec.shapes.noise, 0, 255);
      break;
    case DenseFormat::kSeries:
      read_counts(fields, spec.segments.train_examples, spec.segments.test_examples);
      spec.segments.noise = fields.number("noise", spec.segments.noise, 0, 1e3);
      break;
    case DenseFormat::kFolder: {
      spec.train = {existing_folder(fields, "train_pictures", folder),
                    existing_folder(fields, "train_masks", folder)};
      spec.test = {existing_folder(fields, "test_pictures", folder),
                   existing_folder(fields, "test_masks", folder)};
      spec.ignore_label = fields.integer("ignore_label", spec.ignore_label, -1, 255);
      Fields augment = fields.object("augment");
      read_crop_and_flip(augment, spec.augment);
      augment.finish();
      break;
    }
  }
  fields.finish();
  return spec;
}

std::unique_ptr<DenseExamples> open_dense(const DenseDataSpec& spec, DataPart part,
                                          const DenseGrid& grid, uint64_t seed) {
  if (spec.format == DenseFormat::kSeries) {
    check_axes(grid, 1, "series");
    const int64_t steps = segments_minimum_steps(grid.classes);
    if (grid.extents[0] < steps) {
      throw Error(ErrorCode::kArgument, cat("series of ", grid.classes, " classes need ", steps,
                                            " steps, the model reads ", grid.extents[0]));
    }
    return std::make_unique<Series>(spec.segments, part, grid, seed);
  }
  check_axes(grid, 2, spec.format == DenseFormat::kShapes ? "shapes" : "folder");
  if (spec.format == DenseFormat::kShapes) {
    if (grid.classes != kShapeClasses) {
      throw Error(ErrorCode::kArgument,
                  cat("shapes have ", kShapeClasses, " classes, the model tells ", grid.classes));
    }
    return std::make_unique<Scenes>(spec.shapes, part, picture_size(grid), seed);
  }
  if (grid.channels != 1 && grid.channels != 3) {
    throw Error(ErrorCode::kArgument,
                cat("picture files have 1 or 3 channels, the model reads ", grid.channels));
  }
  return std::make_unique<MaskedPictures>(spec, part, grid, seed);
}

}  // namespace perceiver::train
