#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "perceiver/base/json.h"
#include "perceiver/io/image.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/ranking.h"
#include "perceiver/tokens/engine.h"

// Questions about pictures: what is in them, and where the model looked.

namespace perceiver::tasks {

/// Whether the model reads one picture and answers with one class.
bool is_image_classifier(const ModelSpec& spec);

/// preprocessor_config.json for a model that reads pictures, as the hub's files state it (crop 256,
/// resize to the model's size, ImageNet's mean and deviation); nothing for other models.
std::optional<Json> default_preprocessor(const ModelSpec& spec);

struct ClassifyImageOptions {
  int64_t top = 5;
  bool attention = false;  ///< also say where the encoder looked
};

struct ImageAnswer {
  std::vector<Ranked> classes;  ///< surest first
  io::Image seen;               ///< what reached the model: cropped, resized, 8 bit
  /// [H, W] F32 over `seen`: how much attention the latents paid to each place, averaged over
  /// latents, heads and reads, 1 = the strongest place; undefined unless asked for.
  Array attention;
};

/// @throws Error(kArgument) when the model is no picture classifier; Error(kFormat) for an unusable
///         preprocessor_config.json
ImageAnswer classify_image(const Bundle& bundle, Engine& engine, const io::Image& picture,
                           const ClassifyImageOptions& options = {});

/// `answer.seen` dimmed where the model paid no attention and warm where it did.
io::Image attention_picture(const ImageAnswer& answer);

/// Larger copy by bilinear interpolation.
Array resize_map(const Array& map, int64_t height, int64_t width);

}  // namespace perceiver::tasks
