#include "perceiver/tasks/image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tokens/image_processor.h"

namespace perceiver::tasks {
namespace {

bool reads_picture(const ModelSpec& spec) {
  return spec.inputs.size() == 1 && spec.inputs[0].kind == InputKind::kGrid &&
         spec.inputs[0].index_dims.size() == 2 &&
         (spec.inputs[0].channels == 1 || spec.inputs[0].channels == 3);
}

tokens::ImageProcessorConfig default_config(const ModelSpec& spec) {
  tokens::ImageProcessorConfig config;
  const InputSpec& input = spec.inputs.at(0);
  config.size = {input.index_dims.at(0), input.index_dims.at(1)};
  const auto crop = [](int64_t side) { return (side * 256 + 223) / 224; };
  config.crop_size = {crop(config.size.height), crop(config.size.width)};
  if (input.channels == 1) {
    config.image_mean = {0.5};
    config.image_std = {0.5};
  }
  if (spec.compatibility.activation == Activation::kGeluTanh) {  // DeepMind's demonstration
    config.resize_style = tokens::ResizeStyle::kOpenCv;
    config.crop_start = tokens::CropStart::kCeil;
  }
  return config;
}

tokens::ImageProcessorConfig image_config(const Bundle& bundle) {
  if (!bundle.preprocessor) {
    return default_config(bundle.spec);
  }
  const std::string where = (bundle.path / "preprocessor_config.json").string();
  tokens::ImageProcessorConfig config =
      tokens::image_processor_config_from_json(*bundle.preprocessor, where);
  const std::vector<int64_t>& wanted = bundle.spec.inputs.at(0).index_dims;
  if (config.do_resize && (config.size.height != wanted[0] || config.size.width != wanted[1])) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": size ", config.size.height, " x ", config.size.width,
                    " is not what the model reads, ", wanted[0], " x ", wanted[1]));
  }
  return config;
}

// Back from model values to 8 bit.
io::Image as_seen(const Array& values, const tokens::ImageProcessorConfig& config) {
  Array out = Array::zeros(DType::kU8, values.shape());
  const int64_t channels = values.size(-1);
  const float* from = values.data<float>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const auto of_channel = [](const std::vector<double>& list, int64_t c) {
    return list[std::min(list.size() - 1, static_cast<size_t>(c))];
  };
  for (int64_t i = 0; i < out.numel(); ++i) {
    double value = static_cast<double>(from[i]);
    if (config.do_normalize) {
      value = value * of_channel(config.image_std, i % channels) +
              of_channel(config.image_mean, i % channels);
    }
    value = config.do_rescale ? value / config.rescale_factor : value;
    to[i] = static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
  }
  return io::make_image(out);
}

// Mean over heads and latents of every recorded read of the inputs, on the token grid.
Array token_attention(const Trace& trace, const ModelSpec& spec) {
  const TokenShape tokens = resolve(spec).inputs.at(0);
  Array map = Array::zeros(DType::kF32, tokens.index_dims);
  float* sum = map.mutable_data<float>();
  for (const auto& [name, array] : trace.arrays) {
    if (!name.starts_with("attention.encoder")) {
      continue;
    }
    const Array scores = array.to(DType::kF32);  // [1, H, N, M]
    if (scores.size(-1) != tokens.tokens) {
      throw Error(ErrorCode::kInternal,
                  cat(name, " has ", scores.size(-1), " columns for ", tokens.tokens, " tokens"));
    }
    const float* row = scores.data<float>();
    for (int64_t i = 0; i < scores.numel(); ++i) {
      sum[i % tokens.tokens] += row[i];
    }
  }
  const auto [low, high] = std::minmax_element(sum, sum + map.numel());
  const float floor = *low;
  const float range = *high - floor;
  for (int64_t i = 0; i < map.numel(); ++i) {
    sum[i] = range > 0 ? (sum[i] - floor) / range : 0.0F;
  }
  return map;
}

io::Image enlarge(const io::Image& picture, int64_t factor) {
  const io::Image rgb = io::to_rgb(picture);
  Array out = Array::zeros(DType::kU8, {rgb.height() * factor, rgb.width() * factor, 3});
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t y = 0; y < out.size(0); ++y) {
    for (int64_t x = 0; x < out.size(1); ++x) {
      const uint8_t* from =
          rgb.pixels.data<uint8_t>() + ((y / factor) * rgb.width() + x / factor) * 3;
      std::copy_n(from, 3, to + (y * out.size(1) + x) * 3);
    }
  }
  return io::make_image(out);
}

}  // namespace

bool is_image_classifier(const ModelSpec& spec) {
  return reads_picture(spec) && spec.outputs.size() == 1 && spec.outputs[0].single_row;
}

std::optional<Json> default_preprocessor(const ModelSpec& spec) {
  if (!is_image_classifier(spec) || spec.compatibility.activation == Activation::kGeluTanh) {
    return std::nullopt;
  }
  return tokens::image_processor_config_to_json(default_config(spec));
}

ImageAnswer classify_image(const Bundle& bundle, Engine& engine, const io::Image& picture,
                           const ClassifyImageOptions& options) {
  if (!is_image_classifier(bundle.spec)) {
    throw Error(ErrorCode::kArgument,
                cat("model \"", printable(bundle.spec.name), "\" is no picture classifier"));
  }
  const InputSpec& input = bundle.spec.inputs[0];
  const tokens::ImageProcessorConfig config = image_config(bundle);
  const Array pixels =
      input.channels == 1 ? io::to_grey(picture).pixels : io::to_rgb(picture).pixels;
  const Array values = tokens::process_image(pixels, config);
  ModelInputs inputs;
  inputs.arrays[input.name] = values.reshape({1, values.size(0), values.size(1), values.size(2)});
  Trace trace;
  trace.attention = options.attention;
  trace.only = {"attention.encoder"};
  const ArrayMap answers = engine.forward(inputs, {}, options.attention ? &trace : nullptr);
  const Array logits = answers.at(bundle.spec.outputs[0].name).to(DType::kF32);
  ImageAnswer answer;
  answer.classes =
      rank_classes(logits.data<float>(), logits.size(-1), options.top, bundle.spec.labels);
  answer.seen = as_seen(values, config);
  if (options.attention) {
    const Array map = token_attention(trace, bundle.spec);
    answer.attention = resize_map(map, answer.seen.height(), answer.seen.width());
  }
  return answer;
}

Array resize_map(const Array& map, int64_t height, int64_t width) {
  if (map.dim() != 2) {
    throw Error(ErrorCode::kShape, cat("a map must be [H, W], not ", shape_string(map.shape())));
  }
  Array out = Array::zeros(DType::kF32, {height, width});
  const float* from = map.data<float>();
  float* to = out.mutable_data<float>();
  // Pixel centres on pixel centres; beyond the outermost ones the border value holds.
  const auto place = [](int64_t i, int64_t n_out, int64_t n_in) {
    const double at =
        (static_cast<double>(i) + 0.5) * static_cast<double>(n_in) / static_cast<double>(n_out) -
        0.5;
    return std::clamp(at, 0.0, static_cast<double>(n_in - 1));
  };
  for (int64_t y = 0; y < height; ++y) {
    const double sy = place(y, height, map.size(0));
    const auto y0 = static_cast<int64_t>(sy);
    const int64_t y1 = std::min(y0 + 1, map.size(0) - 1);
    const auto fy = static_cast<float>(sy - static_cast<double>(y0));
    for (int64_t x = 0; x < width; ++x) {
      const double sx = place(x, width, map.size(1));
      const auto x0 = static_cast<int64_t>(sx);
      const int64_t x1 = std::min(x0 + 1, map.size(1) - 1);
      const auto fx = static_cast<float>(sx - static_cast<double>(x0));
      const float* top = from + y0 * map.size(1);
      const float* bottom = from + y1 * map.size(1);
      to[y * width + x] = (top[x0] * (1 - fx) + top[x1] * fx) * (1 - fy) +
                          (bottom[x0] * (1 - fx) + bottom[x1] * fx) * fy;
    }
  }
  return out;
}

io::Image attention_picture(const ImageAnswer& answer) {
  constexpr int64_t kShortestSide = 112;
  constexpr std::array<float, 3> kWarm{255, 150, 30};
  const int64_t side = std::min(answer.seen.height(), answer.seen.width());
  const int64_t factor = std::max<int64_t>(1, (kShortestSide + side - 1) / side);
  const io::Image base = enlarge(answer.seen, factor);
  const Array map = resize_map(answer.attention, base.height(), base.width());
  Array out = base.pixels.clone();
  uint8_t* value = out.mutable_data<uint8_t>();
  const float* strength = map.data<float>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    const float a = strength[i / 3];
    const float dimmed = 0.45F * static_cast<float>(value[i]) * (1 - a);
    const float lit =
        a * (0.55F * kWarm[static_cast<size_t>(i % 3)] + 0.45F * static_cast<float>(value[i]));
    value[i] = static_cast<uint8_t>(std::lround(std::clamp(dimmed + lit, 0.0F, 255.0F)));
  }
  return io::make_image(out);
}

}  // namespace perceiver::tasks
