#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/base/array.h"

namespace perceiver::train {

/// Labelled pictures, asked for one by one and from several threads at once.
class Pictures {
 public:
  virtual ~Pictures() = default;
  virtual int64_t count() const = 0;
  virtual int64_t label(int64_t index) const = 0;
  /// What to call a picture in messages.
  virtual std::string name(int64_t index) const = 0;
  /// [h, w, c] U8. @throws Error(kIo), Error(kFormat), Error(kUnsupported) naming the picture
  virtual Array read(int64_t index) const = 0;
};

/// Pictures of one size, all in memory.
class PicturesInMemory : public Pictures {
 public:
  /// @param images  U8 [n, h, w, c]   @param labels  n of them   @param name  of the whole set
  PicturesInMemory(Array images, std::vector<int64_t> labels, std::string name);
  int64_t count() const override { return images_.size(0); }
  int64_t label(int64_t index) const override { return labels_[static_cast<size_t>(index)]; }
  std::string name(int64_t index) const override;
  Array read(int64_t index) const override;
  /// [h, w, c] of every picture.
  std::vector<int64_t> extents() const;

 private:
  Array images_;
  std::vector<int64_t> labels_;
  std::string name_;
};

/// Pictures and labels as IDX files (optionally gzip), MNIST's format: [n, h, w] or [n, h, w, c]
/// and [n]. @throws Error(kIo), Error(kFormat) when the two disagree
PicturesInMemory read_idx_pictures(const std::filesystem::path& images,
                                   const std::filesystem::path& labels);

/// CIFAR's binary files (optionally gzip), one after the other. A record is `label_bytes` labels,
/// the last of which counts, then 32 x 32 bytes of red, of green and of blue, row by row: 1 for
/// CIFAR-10, 2 for CIFAR-100 (coarse and fine class).
/// @throws Error(kIo), Error(kFormat) naming the file that is no whole number of records
PicturesInMemory read_cifar(const std::vector<std::filesystem::path>& files, int64_t label_bytes);

/// @throws Error(kArgument) naming the first picture whose label a model of `classes` has no room
/// for
void check_labels(const Pictures& pictures, int64_t classes);

}  // namespace perceiver::train
