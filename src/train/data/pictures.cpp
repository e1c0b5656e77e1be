#include "train/data/pictures.h"

#include <string_view>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/idx.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxCifarBytes = uint64_t{2} << 30;
constexpr int64_t kCifarSide = 32;
constexpr int64_t kCifarPlane = kCifarSide * kCifarSide;

// Planes to channels last.
void take_record(const unsigned char* planes, uint8_t* out) {
  for (int64_t i = 0; i < kCifarPlane; ++i) {
    for (int64_t channel = 0; channel < 3; ++channel) {
      *out++ = planes[channel * kCifarPlane + i];
    }
  }
}

}  // namespace

PicturesInMemory::PicturesInMemory(Array images, std::vector<int64_t> labels, std::string name)
    : images_(std::move(images)), labels_(std::move(labels)), name_(std::move(name)) {}

std::string PicturesInMemory::name(int64_t index) const {
  return cat(name_, ": picture ", index);
}

Array PicturesInMemory::read(int64_t index) const {
  return images_.rows(index, index + 1).reshape(extents());
}

std::vector<int64_t> PicturesInMemory::extents() const {
  return {images_.size(1), images_.size(2), images_.size(3)};
}

PicturesInMemory read_idx_pictures(const std::filesystem::path& images,
                                   const std::filesystem::path& labels) {
  Array pixels = read_idx(images);
  if (pixels.dim() == 3) {
    pixels = pixels.reshape({pixels.size(0), pixels.size(1), pixels.size(2), 1});
  }
  const std::string where = printable(images.string());
  if (pixels.dim() != 4) {
    throw Error(ErrorCode::kFormat, cat(where, " holds ", shape_string(pixels.shape()),
                                        ", pictures are [n, h, w] or [n, h, w, c]"));
  }
  const Array classes = read_idx(labels);
  if (classes.dim() != 1 || classes.size(0) != pixels.size(0)) {
    throw Error(ErrorCode::kFormat,
                cat(printable(labels.string()), " holds ", shape_string(classes.shape()),
                    " labels for ", pixels.size(0), " pictures"));
  }
  const uint8_t* values = classes.data<uint8_t>();
  return {std::move(pixels), {values, values + classes.numel()}, where};
}

PicturesInMemory read_cifar(const std::vector<std::filesystem::path>& files, int64_t label_bytes) {
  const auto record = static_cast<size_t>(label_bytes + 3 * kCifarPlane);
  std::vector<std::string> contents;
  size_t count = 0;
  for (const std::filesystem::path& file : files) {
    contents.push_back(read_maybe_gzip(file, kMaxCifarBytes));
    const size_t size = contents.back().size();
    if (size == 0 || size % record != 0) {
      throw Error(ErrorCode::kFormat, cat(printable(file.string()), ": ", size,
                                          " bytes are no CIFAR records of ", record, " each"));
    }
    count += size / record;
  }
  Array images = Array::zeros(DType::kU8, {static_cast<int64_t>(count), kCifarSide, kCifarSide, 3});
  uint8_t* out = images.mutable_data<uint8_t>();
  std::vector<int64_t> labels;
  labels.reserve(count);
  for (std::string& content : contents) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(content.data());
    for (size_t at = 0; at < content.size(); at += record, out += 3 * kCifarPlane) {
      labels.push_back(bytes[at + static_cast<size_t>(label_bytes) - 1]);
      take_record(bytes + at + label_bytes, out);
    }
    content = std::string();
  }
  const std::string rest = files.size() > 1 ? cat(" and ", files.size() - 1, " more") : "";
  return {std::move(images), std::move(labels), printable(files.at(0).string()) + rest};
}

void check_labels(const Pictures& pictures, int64_t classes) {
  for (int64_t i = 0; i < pictures.count(); ++i) {
    const int64_t label = pictures.label(i);
    if (label < 0 || label >= classes) {
      throw Error(ErrorCode::kArgument, cat(pictures.name(i), " has label ", label,
                                            ", the model has ", classes, " classes"));
    }
  }
}

}  // namespace perceiver::train
