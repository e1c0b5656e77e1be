#include "train/data/masked_pictures.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/image.h"
#include "perceiver/tokens/image_processor.h"
#include "train/data/picture_files.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

Array read_mask(const MaskedPicture& pair, const Array& picture) {
  const io::Image mask = io::read_image(pair.mask);
  const std::string where = printable(pair.mask);
  if (mask.color != io::ColorModel::kGrey || mask.pixels.dtype() != DType::kU8) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": a mask is a grey 8-bit picture, this one has ", mask.channels(),
                    " channel(s) of ", dtype_name(mask.pixels.dtype())));
  }
  if (mask.height() != picture.size(0) || mask.width() != picture.size(1)) {
    throw Error(ErrorCode::kFormat,
                cat(where, " is ", mask.width(), "x", mask.height(), ", its picture ",
                    printable(pair.picture), " is ", picture.size(1), "x", picture.size(0)));
  }
  return mask.pixels;
}

// The label of output pixel i lies under its middle.
void fit_mask(const MaskedPicture& pair, const Array& mask, const PictureSize& size,
              const MaskClasses& classes, int64_t* labels) {
  const uint8_t* from = mask.data<uint8_t>();
  for (int64_t y = 0; y < size.height; ++y) {
    const int64_t from_y = (2 * y + 1) * mask.size(0) / (2 * size.height);
    for (int64_t x = 0; x < size.width; ++x) {
      const int64_t from_x = (2 * x + 1) * mask.size(1) / (2 * size.width);
      const int64_t label = from[from_y * mask.size(1) + from_x];
      if (label != classes.ignored && label >= classes.classes) {
        throw Error(ErrorCode::kFormat,
                    cat(printable(pair.mask), " holds class ", label, ", the model has ",
                        classes.classes, " and ignore_label is ", classes.ignored));
      }
      *labels++ = label == classes.ignored ? -1 : label;
    }
  }
}

}  // namespace

std::vector<MaskedPicture> list_masked(const MaskedFolder& folder) {
  std::vector<MaskedPicture> pairs;
  for (const std::filesystem::path& picture : picture_files(folder.pictures)) {
    std::filesystem::path mask = folder.masks / picture.filename();
    mask.replace_extension(".png");
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(mask, ignored)) {
      throw Error(ErrorCode::kIo,
                  cat(printable(picture.string()), " has no mask ", printable(mask.string())));
    }
    pairs.push_back({picture.string(), mask.string()});
  }
  if (pairs.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(folder.pictures.string()), " holds no pictures"));
  }
  return pairs;
}

void read_masked(const MaskedPicture& pair, const PictureSize& size, const MaskClasses& classes,
                 const PictureAugmentSpec& augment, uint64_t seed, int64_t drawn, float* values,
                 int64_t* labels) {
  Array picture = read_picture(pair.picture, size.channels);
  Array mask = read_mask(pair, picture);
  if (drawn >= 0) {
    Random random{seed, kPicture, static_cast<uint64_t>(drawn)};
    if (augment.crop) {
      const CropBox box = draw_crop(*augment.crop, picture.size(0), picture.size(1), random);
      picture = crop(picture, box);
      mask = crop(mask, box);
    }
    if (augment.flip && random.uniform() < 0.5) {
      picture = mirrored(picture);
      mask = mirrored(mask);
    }
  }
  if (picture.size(0) != size.height || picture.size(1) != size.width) {
    picture =
        tokens::resize_image(picture, {size.height, size.width}, tokens::ResampleFilter::kBicubic);
  }
  const uint8_t* bytes = picture.data<uint8_t>();
  std::copy(bytes, bytes + picture.numel(), values);
  fit_mask(pair, mask, size, classes, labels);
}

}  // namespace perceiver::train
