#include "perceiver/spec/haiku.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"
#include "spec/name_parts.h"
#include "spec/parts.h"
#include "spec/tensor_check.h"

// Haiku names modules in order of creation: `linear`, `linear_1`, ...; `~` marks modules made in a
// constructor and `~method` those made in that method.

namespace perceiver {
namespace {

using spec_detail::take_prefix;
using spec_detail::take_word;

/// How a Haiku tensor becomes ours.
enum class Layout {
  kSame,
  kTranspose,  ///< [in, out] -> [out, in]
  kConv,       ///< [h, w, in, out] -> [out, in, h, w]
  kSqueeze,    ///< [1, 1, 1, c] -> [c]
};

struct HaikuTensor {
  std::string name;  ///< "<module>/<param>"
  Layout layout = Layout::kSame;
};

// The i-th module created under one name.
std::string numbered(const std::string& module, const std::string& index) {
  return index == "0" ? module : module + "_" + index;
}

HaikuTensor linear(const std::string& module, std::string_view name) {
  return name == "weight" ? HaikuTensor{module + "/w", Layout::kTranspose}
                          : HaikuTensor{module + "/b"};
}

HaikuTensor table(const std::string& module) {
  return {module + "/pos_embs"};
}

HaikuTensor attention(const std::string& module, std::string_view name, bool self) {
  static constexpr std::array<std::string_view, 4> kLinears{"query", "key", "value", "output"};
  const std::string part = take_word(name);
  const auto found = std::find(kLinears.begin(), kLinears.end(), part);
  if (found != kLinears.end()) {
    return linear(
        module + "/attention/" + numbered("linear", std::to_string(found - kLinears.begin())),
        name);
  }
  if (part == "mlp_in" || part == "mlp_out") {
    return linear(module + "/mlp/" + numbered("linear", part == "mlp_in" ? "0" : "1"), name);
  }
  const char* norm = part == "norm_queries"          ? "layer_norm"
                     : part == "norm_inputs" || self ? "layer_norm_1"
                                                     : "layer_norm_2";
  return {cat(module, "/", norm, name == "weight" ? "/scale" : "/offset")};
}

class Namer {
 public:
  Namer(const ModelSpec& spec, const ArrayMap& params) : spec_(spec) {
    const bool video = params.contains("encoder/~/trainable_position_encoding/pos_embs");
    encoder_ = video ? "encoder" : "perceiver_encoder";
  }

  std::optional<HaikuTensor> name_of(std::string_view name) const {
    if (name == "latents") {
      return table(encoder_ + "/~/trainable_position_encoding");
    }
    if (take_prefix(name, "encoder.cross_attend.")) {
      const std::string set = take_word(name);
      return attention(encoder_ + "/~/" + numbered("cross_attention", set), name, false);
    }
    if (take_prefix(name, "encoder.block.0.")) {
      const std::string layer = take_word(name);
      return attention(encoder_ + "/~/" + numbered("self_attention", layer), name, true);
    }
    if (take_prefix(name, "decoder.cross_attend.")) {
      return attention(decoder() + "/cross_attention", name, false);
    }
    if (take_prefix(name, "decoder.final.")) {
      const bool projection = spec_.decoder.kind == DecoderKind::kProjection;
      return linear(projection ? "projection_decoder/~/logits" : decoder() + "/output", name);
    }
    if (take_prefix(name, "inputs.")) {
      const std::string input = take_word(name);
      return input_tensor(spec_.input(input), name);
    }
    if (take_prefix(name, "outputs.")) {
      const std::string output = take_word(name);
      return output_tensor(spec_.output(output), name);
    }
    return std::nullopt;
  }

 private:
  std::string decoder() const {
    const OutputSpec& output = spec_.outputs.front();
    if (spec_.decoder.pad_queries) {
      return "multimodal_decoder/~/basic_decoder";
    }
    if (output.query == QueryKind::kInputTokens) {
      return "flow_decoder/~/basic_decoder";
    }
    return output.single_row ? "classification_decoder/~/basic_decoder" : "basic_decoder";
  }

  std::optional<HaikuTensor> input_tensor(const InputSpec& input, std::string_view name) const {
    if (name == "padding") {
      return table("multimodal_preprocessor/" + input.name + "_padding");
    }
    if (name == "mask_token") {
      return table("multimodal_preprocessor/" + input.name + "_mask_token");
    }
    if (name == "embedding.weight") {
      return HaikuTensor{"embed/embeddings"};
    }
    if (input.kind == InputKind::kText) {
      return name == "position.table" ? std::optional(table("trainable_position_encoding"))
                                      : std::nullopt;
    }
    return grid_tensor(input, name);
  }

  static std::optional<HaikuTensor> grid_tensor(const InputSpec& input, std::string_view name) {
    const std::string image = "image_preprocessor/~/";
    const std::string position = "image_preprocessor/~_build_network_inputs/";
    if (name == "position.table") {
      return table(position + "trainable_position_encoding");
    }
    if (take_prefix(name, "position.projection.")) {
      return linear(position + "position_encoding_projector/linear", name);
    }
    if (take_prefix(name, "position.extra.")) {
      const std::string index = take_word(name);
      return linear(position + numbered("linear", index), name);
    }
    if (take_prefix(name, "conv.")) {
      const std::string layer = take_word(name);
      return HaikuTensor{image + "conv2_d_downsample/~/" + numbered("conv", layer) + "/w",
                         Layout::kConv};
    }
    if (take_prefix(name, "batch_norm.")) {
      const std::string layer = take_word(name);
      return batch_norm(image + "conv2_d_downsample/~/" + numbered("batchnorm", layer), name);
    }
    if (take_prefix(name, "stem.")) {
      if (input.stem == Stem::kConv1x1) {
        return name == "weight" ? HaikuTensor{image + "conv2_d/w", Layout::kConv}
                                : HaikuTensor{image + "conv2_d/b"};
      }
      return linear("image_preprocessor/patches_linear", name);
    }
    return std::nullopt;
  }

  static HaikuTensor batch_norm(const std::string& module, std::string_view name) {
    if (name == "weight" || name == "bias") {
      return {module + (name == "weight" ? "/scale" : "/offset"), Layout::kSqueeze};
    }
    const char* average = name == "running_mean" ? "/~/mean_ema/average" : "/~/var_ema/average";
    return {module + average, Layout::kSqueeze};
  }

  std::optional<HaikuTensor> output_tensor(const OutputSpec& output, std::string_view name) const {
    if (name == "padding") {
      return table("multimodal_decoder/~decoder_query/" + output.name + "_padding");
    }
    if (name == "query.table") {
      const std::string owner =
          output.single_row ? "classification_decoder/~/basic_decoder" : decoder();
      return table(owner + "/~/trainable_position_encoding");
    }
    if (take_prefix(name, "head.")) {
      if (output.head == HeadKind::kTiedEmbedding) {
        return HaikuTensor{"embedding_decoder/bias"};
      }
      if (output.head == HeadKind::kLinear) {
        const char* module = output.flatten_channels ? "audio_postprocessor/linear"
                             : output.single_row     ? "classification_postprocessor/linear"
                                                     : "projection_postprocessor/linear";
        return linear(module, name);
      }
    }
    return std::nullopt;
  }

  const ModelSpec& spec_;
  std::string encoder_;
};

std::vector<int64_t> haiku_shape(const std::vector<int64_t>& ours, Layout layout) {
  switch (layout) {
    case Layout::kSame:
      return ours;
    case Layout::kTranspose:
      return {ours.at(1), ours.at(0)};
    case Layout::kConv:
      return {ours.at(2), ours.at(3), ours.at(1), ours.at(0)};
    case Layout::kSqueeze:
      return {1, 1, 1, ours.at(0)};
  }
  return ours;
}

// [rows, columns] -> [columns, rows]
Array transposed(const Array& source, int64_t rows, int64_t columns, std::vector<int64_t> shape) {
  Array result = Array::zeros(source.dtype(), std::move(shape));
  const size_t width = static_cast<size_t>(dtype_size(source.dtype()));
  const std::byte* in = source.bytes();
  std::byte* out = result.mutable_bytes();
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(out, in + static_cast<size_t>(row * columns + column) * width, width);
      out += width;
    }
  }
  return result;
}

Array to_our_layout(const Array& source, Layout layout, const std::vector<int64_t>& shape) {
  switch (layout) {
    case Layout::kSame:
      return source;
    case Layout::kSqueeze:
      return source.reshape(shape);
    case Layout::kTranspose:
      return transposed(source, shape.at(1), shape.at(0), shape);
    case Layout::kConv: {
      // (3, 2, 0, 1) is two exchanges: [hw, io] -> [io, hw], then [i, o, hw] -> [o, i, hw].
      const int64_t taps = shape.at(2) * shape.at(3);
      const Array swapped =
          transposed(source, taps, shape[0] * shape[1], {shape[1], shape[0], taps});
      Array result = Array::zeros(source.dtype(), shape);
      const size_t plane = static_cast<size_t>(taps * dtype_size(source.dtype()));
      for (int64_t o = 0; o < shape[0]; ++o) {
        for (int64_t i = 0; i < shape[1]; ++i) {
          std::memcpy(result.mutable_bytes() + static_cast<size_t>(o * shape[1] + i) * plane,
                      swapped.bytes() + static_cast<size_t>(i * shape[0] + o) * plane, plane);
        }
      }
      return result;
    }
  }
  return source;
}

bool is_average_bookkeeping(const std::string& name) {
  return name.ends_with("_ema/hidden") || name.ends_with("_ema/counter");
}

/// Training steps behind a batch norm's averages, which to continue them needs; Haiku counts them
/// beside each average. 0 when the file does not say.
Array steps_taken(const Namer& namer, const ParameterInfo& info, const ArrayMap& state) {
  Array steps = Array::zeros(info.dtype, info.shape);
  const std::string norm = info.name.substr(0, info.name.rfind('.'));
  const std::optional<HaikuTensor> average = namer.name_of(norm + ".running_mean");
  if (average) {
    const std::string module = average->name.substr(0, average->name.rfind('/'));
    const auto counter = state.find(module + "/counter");
    if (counter != state.end() && counter->second.numel() == 1 && steps.numel() == 1) {
      steps = counter->second.to(info.dtype).reshape(info.shape).clone();
    }
  }
  return steps;
}

bool has_learned_positions(const ModelSpec& spec) {
  return spec.architecture == "PerceiverForImageClassificationLearned";
}

}  // namespace

ModelSpec as_deepmind(ModelSpec spec) {
  const double eps = spec.compatibility.layer_norm_eps;
  spec.compatibility = spec_detail::deepmind_compatibility();
  spec.compatibility.layer_norm_eps = eps;
  if (has_learned_positions(spec)) {
    spec.decoder.cross_attend.use_query_residual = false;
  }
  return spec;
}

ModelSpec as_transformers(ModelSpec spec) {
  const double eps = spec.compatibility.layer_norm_eps;
  spec.compatibility = spec_detail::transformers_compatibility();
  spec.compatibility.layer_norm_eps = eps;
  if (has_learned_positions(spec)) {
    spec.decoder.cross_attend.use_query_residual = true;
  }
  return spec;
}

std::string recognise_haiku(const ArrayMap& params) {
  struct Mark {
    const char* tensor;
    const char* model;
  };
  static constexpr Mark kMarks[] = {
      {"embedding_decoder/bias", "language-perceiver"},
      {"image_preprocessor/~/conv2_d/w", "vision-perceiver-learned"},
      {"image_preprocessor/~/conv2_d_downsample/~/conv/w", "vision-perceiver-conv"},
      {"flow_decoder/~/basic_decoder/output/w", "optical-flow-perceiver"},
      {"multimodal_decoder/~/basic_decoder/output/w", "multimodal-perceiver"},
      // No parameter of its own: a classifier of none of the kinds above.
      {"classification_decoder/~/basic_decoder/output/w", "vision-perceiver-fourier"},
  };
  std::string tried;
  for (const Mark& mark : kMarks) {
    if (params.contains(mark.tensor)) {
      return mark.model;
    }
    tried += (tried.empty() ? "" : ", ") + std::string(mark.tensor);
  }
  throw Error(ErrorCode::kFormat,
              cat("these parameters belong to no released Perceiver: none of the tensors that tell "
                  "them apart is there (",
                  tried, ")"));
}

ArrayMap from_haiku(const ModelSpec& spec, const ArrayMap& params, const ArrayMap& state,
                    const std::string& where) {
  struct Source {
    const ParameterInfo* info;
    HaikuTensor tensor;
  };
  const Namer namer(spec, params);
  const std::vector<ParameterInfo> infos = parameter_table(spec);
  std::vector<Source> sources;
  std::vector<spec_detail::WantedTensor> wanted;
  ArrayMap ours;
  for (const ParameterInfo& info : infos) {
    if (info.dtype != DType::kF32) {
      ours[info.name] = steps_taken(namer, info, state);
      continue;
    }
    const std::optional<HaikuTensor> tensor = namer.name_of(info.name);
    if (!tensor) {
      throw Error(ErrorCode::kUnsupported,
                  cat(where, ": DeepMind's code has no tensor like ", info.name));
    }
    sources.push_back({&info, *tensor});
    wanted.push_back({tensor->name, haiku_shape(info.shape, tensor->layout), info.dtype});
  }
  ArrayMap given = params;  // shares the data
  for (const auto& [name, array] : state) {
    if (!is_average_bookkeeping(name)) {
      given[name] = array;
    }
  }
  spec_detail::check_tensors(wanted, given, where);
  for (const Source& source : sources) {
    ours[source.info->name] =
        to_our_layout(given.at(source.tensor.name), source.tensor.layout, source.info->shape);
  }
  return ours;
}

}  // namespace perceiver
