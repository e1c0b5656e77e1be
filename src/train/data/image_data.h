#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "perceiver/spec/model_spec.h"
#include "train/data/picture_mix.h"
#include "train/data/picture_preparer.h"
#include "train/data/pictures.h"
#include "train/fields.h"

namespace perceiver::train {

enum class ImageFormat {
  kIdx,       ///< MNIST's
  kCifar10,   ///< binary records
  kCifar100,  ///< by the fine class
  kFolder,    ///< one folder for each class
  kList,      ///< a text file of paths and labels
};

/// Where labelled pictures are and what training changes about them.
struct ImageDataSpec {
  ImageFormat format = ImageFormat::kIdx;
  std::filesystem::path train_images, train_labels, test_images, test_labels;  ///< kIdx
  std::vector<std::filesystem::path> train_files, test_files;                  ///< kCifar...
  std::filesystem::path train_folder, test_folder;                             ///< kFolder
  std::filesystem::path train_list, test_list;                                 ///< kList
  std::filesystem::path root;  ///< kList: where its paths start; empty = beside the list
  PictureAugmentSpec augment;
  PictureMixSpec mix;
  bool plain_resize = false;  ///< PicturePreparer's
  /// One order of all pixels, a function of the seed, for every picture, also those tested on.
  /// Positions stay.
  bool permute_pixels = false;

  bool on_disk() const { return format == ImageFormat::kFolder || format == ImageFormat::kList; }
};

/// `data` of image_classification. Files must exist.
ImageDataSpec read_image_data(Fields fields, const std::filesystem::path& folder);

/// The keys of `augment` that change geometry alone, for pictures whose masks change with them.
void read_crop_and_flip(Fields& fields, PictureAugmentSpec& augment);

enum class DataPart { kTrain, kTest };

/// Opens one part and checks it against the model's input and classes. The classes of folders are
/// the model's labels if they are named so, else the sorted names of the training folders.
/// @throws Error(kArgument) naming both sides of a misfit; what the readers throw
std::unique_ptr<Pictures> open_pictures(const ImageDataSpec& spec, DataPart part,
                                        const ModelSpec& model, int64_t classes);

}  // namespace perceiver::train
