#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/data/pictures.h"

namespace perceiver::train {

struct PictureFile {
  std::string path;
  int64_t label = 0;
};

/// Names of the folders in `folder`, sorted; those that begin with a dot are no classes.
/// @throws Error(kIo); Error(kFormat) when there is none
std::vector<std::string> class_folders(const std::filesystem::path& folder);

/// Files in `folder` whose names end like pictures (.png, .jpg, .jpeg, .pgm, .ppm, .pnm in any
/// case), sorted by name. @throws Error(kIo)
std::vector<std::filesystem::path> picture_files(const std::filesystem::path& folder);

/// The pictures of a folder that has one folder for each class. The label is the place of the
/// folder's name in `classes`.
/// @throws Error(kIo); Error(kFormat) naming a folder that is no class, or `folder` when it holds
///         no picture
std::vector<PictureFile> list_class_folders(const std::filesystem::path& folder,
                                            const std::vector<std::string>& classes);

/// A text file of lines "path<TAB>label" or "path,label" (the last comma counts). Paths are
/// relative to `root`; a label is a number, or a name in `names`. Empty lines are skipped.
/// @throws Error(kIo); Error(kFormat) naming file and line
std::vector<PictureFile> read_picture_list(const std::filesystem::path& list,
                                           const std::filesystem::path& root,
                                           const std::vector<std::string>& names);

/// A picture file with 1 (lightness) or 3 channels. @return [h, w, channels] U8
/// @throws as io::read_image, naming the file
Array read_picture(const std::filesystem::path& path, int64_t channels);

/// Pictures that are decoded when they are asked for.
class PicturesOnDisk : public Pictures {
 public:
  PicturesOnDisk(std::vector<PictureFile> files, int64_t channels)
      : files_(std::move(files)), channels_(channels) {}
  int64_t count() const override { return static_cast<int64_t>(files_.size()); }
  int64_t label(int64_t index) const override { return file(index).label; }
  std::string name(int64_t index) const override;
  Array read(int64_t index) const override { return read_picture(file(index).path, channels_); }

 private:
  const PictureFile& file(int64_t index) const { return files_[static_cast<size_t>(index)]; }

  std::vector<PictureFile> files_;
  int64_t channels_;
};

}  // namespace perceiver::train
