#include "train/data/image_data.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/picture_files.h"

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> existing_files(Fields& fields, const std::string& key,
                                     const fs::path& folder) {
  const Json& list = fields.at(key);
  const bool fits =
      list.is_array() && !list.empty() &&
      std::all_of(list.begin(), list.end(), [](const Json& v) { return v.is_string(); });
  if (!fits) {
    throw Error(ErrorCode::kFormat, cat(fields.where(key), " must be a list of paths"));
  }
  std::vector<fs::path> files;
  for (const Json& name : list) {
    files.push_back(resolve_path(name.get<std::string>(), folder));
    std::error_code ignored;
    if (!fs::is_regular_file(files.back(), ignored)) {
      throw Error(ErrorCode::kIo,
                  cat(fields.where(key), ": no file ", printable(files.back().string()),
                      " (relative paths start at --data DIR)"));
    }
  }
  return files;
}

void read_sources(Fields& fields, const fs::path& folder, ImageDataSpec& spec) {
  switch (spec.format) {
    case ImageFormat::kIdx:
      spec.train_images = existing_file(fields, "train_images", folder);
      spec.train_labels = existing_file(fields, "train_labels", folder);
      spec.test_images = existing_file(fields, "test_images", folder);
      spec.test_labels = existing_file(fields, "test_labels", folder);
      break;
    case ImageFormat::kCifar10:
    case ImageFormat::kCifar100:
      spec.train_files = existing_files(fields, "train_files", folder);
      spec.test_files = existing_files(fields, "test_files", folder);
      break;
    case ImageFormat::kFolder:
      spec.train_folder = existing_folder(fields, "train_folder", folder);
      spec.test_folder = existing_folder(fields, "test_folder", folder);
      break;
    case ImageFormat::kList:
      spec.train_list = existing_file(fields, "train_list", folder);
      spec.test_list = existing_file(fields, "test_list", folder);
      if (fields.has("root")) {
        spec.root = existing_folder(fields, "root", folder);
      }
      break;
  }
}

RandomCropSpec read_crop(Fields fields) {
  RandomCropSpec crop;
  crop.min_area = fields.number("min_area", crop.min_area, 1e-6, 1);
  crop.max_area = fields.number("max_area", crop.max_area, crop.min_area, 1);
  crop.min_aspect = fields.number("min_aspect", crop.min_aspect, 1e-3, 1e3);
  crop.max_aspect = fields.number("max_aspect", crop.max_aspect, crop.min_aspect, 1e3);
  crop.tries = fields.integer("tries", crop.tries, 1, 1000);
  fields.finish();
  return crop;
}

RandAugmentSpec read_rand_augment(Fields fields) {
  RandAugmentSpec spec;
  spec.layers = fields.integer("layers", 4, 0, 100);
  spec.magnitude = fields.number("magnitude", spec.magnitude, 0, 10);
  spec.translation = fields.number("translation", spec.translation, 0, 1e4);
  spec.cutout = fields.number("cutout", spec.cutout, 0, 1e4);
  fields.finish();
  return spec;
}

void read_augment(Fields fields, ImageDataSpec& spec) {
  read_crop_and_flip(fields, spec.augment);
  if (fields.has("rand_augment")) {
    spec.augment.rand_augment = read_rand_augment(fields.object("rand_augment"));
  }
  spec.augment.pad_crop = fields.integer("pad_crop", 0, 0, 1 << 14);
  spec.augment.affine.shift = fields.number("shift", 0, 0, 1e4);
  spec.augment.affine.rotation = fields.number("rotation", 0, 0, 180);
  spec.augment.affine.scale = fields.number("scale", 0, 0, 0.9);
  spec.augment.affine.shear = fields.number("shear", 0, 0, 2);
  spec.mix.mixup_alpha = fields.number("mixup", 0, 0, 1e3);
  spec.mix.cutmix = fields.boolean("cutmix", false);
  fields.finish();
  if (spec.mix.mixup_alpha > 0 && spec.mix.mixup_alpha < 1e-3) {
    throw Error(ErrorCode::kArgument, cat(fields.where("mixup"), " is ", spec.mix.mixup_alpha,
                                          ", must be 0 (none) or at least 0.001"));
  }
}

// All folder names are labels of the model, or none is.
std::vector<std::string> class_names(const fs::path& folder,
                                     const std::vector<std::string>& labels) {
  const std::vector<std::string> names = class_folders(folder);
  const auto is_label = [&](const std::string& name) {
    return std::find(labels.begin(), labels.end(), name) != labels.end();
  };
  return std::any_of(names.begin(), names.end(), is_label) ? labels : names;
}

std::unique_ptr<Pictures> in_memory(PicturesInMemory pictures, const InputSpec& input) {
  std::vector<int64_t> wanted = input.index_dims;
  wanted.push_back(input.channels);
  if (pictures.extents() != wanted) {
    throw Error(ErrorCode::kArgument, cat(pictures.name(0), " is ",
                                          shape_string(pictures.extents()), ", the model's input ",
                                          printable(input.name), " needs ", shape_string(wanted)));
  }
  return std::make_unique<PicturesInMemory>(std::move(pictures));
}

std::unique_ptr<Pictures> open(const ImageDataSpec& spec, bool train, const ModelSpec& model) {
  const InputSpec& input = model.inputs.at(0);
  if (spec.on_disk() && input.channels != 1 && input.channels != 3) {
    throw Error(ErrorCode::kArgument, cat("picture files have 1 or 3 channels, the model's input ",
                                          printable(input.name), " has ", input.channels));
  }
  switch (spec.format) {
    case ImageFormat::kIdx:
      break;
    case ImageFormat::kCifar10:
    case ImageFormat::kCifar100:
      return in_memory(read_cifar(train ? spec.train_files : spec.test_files,
                                  spec.format == ImageFormat::kCifar10 ? 1 : 2),
                       input);
    case ImageFormat::kFolder:
      return std::make_unique<PicturesOnDisk>(
          list_class_folders(train ? spec.train_folder : spec.test_folder,
                             class_names(spec.train_folder, model.labels)),
          input.channels);
    case ImageFormat::kList: {
      const fs::path& list = train ? spec.train_list : spec.test_list;
      return std::make_unique<PicturesOnDisk>(
          read_picture_list(list, spec.root.empty() ? list.parent_path() : spec.root, model.labels),
          input.channels);
    }
  }
  return in_memory(train ? read_idx_pictures(spec.train_images, spec.train_labels)
                         : read_idx_pictures(spec.test_images, spec.test_labels),
                   input);
}

}  // namespace

void read_crop_and_flip(Fields& fields, PictureAugmentSpec& augment) {
  if (fields.has("random_crop")) {
    augment.crop = read_crop(fields.object("random_crop"));
  }
  augment.flip = fields.boolean("flip", false);
}

ImageDataSpec read_image_data(Fields fields, const fs::path& folder) {
  ImageDataSpec spec;
  constexpr ImageFormat kFormats[] = {ImageFormat::kIdx, ImageFormat::kCifar10,
                                      ImageFormat::kCifar100, ImageFormat::kFolder,
                                      ImageFormat::kList};
  spec.format =
      kFormats[fields.choice("format", 0, {"idx", "cifar10", "cifar100", "folder", "list"})];
  read_sources(fields, folder, spec);
  read_augment(fields.object("augment"), spec);
  spec.plain_resize = fields.choice("resize", 0, {"antialiased", "plain"}) == 1;
  spec.permute_pixels = fields.boolean("permute_pixels", false);
  fields.finish();
  return spec;
}

std::unique_ptr<Pictures> open_pictures(const ImageDataSpec& spec, DataPart part,
                                        const ModelSpec& model, int64_t classes) {
  std::unique_ptr<Pictures> pictures = open(spec, part == DataPart::kTrain, model);
  check_labels(*pictures, classes);
  return pictures;
}

}  // namespace perceiver::train
