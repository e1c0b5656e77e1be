#include <cstring>
#include <optional>
#include <string_view>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"
#include "spec/name_parts.h"
#include "spec/tensor_check.h"

// Tensor names of transformers' seven Perceiver classes. Shapes are ours in every case.

namespace perceiver {
namespace {

using spec_detail::take_prefix;
using spec_detail::take_word;

// "query.weight" -> "attention.self.query.weight"
std::optional<std::string> attention_tensor(std::string_view name) {
  const std::string part = take_word(name);
  const auto with = [&](const char* module) { return cat(module, ".", name); };
  if (part == "norm_queries") {
    return with("attention.self.layernorm1");
  }
  if (part == "norm_inputs") {
    return with("attention.self.layernorm2");
  }
  if (part == "query" || part == "key" || part == "value") {
    return cat("attention.self.", part, ".", name);
  }
  if (part == "output") {
    return with("attention.output.dense");
  }
  if (part == "norm_mlp") {
    return with("layernorm");
  }
  if (part == "mlp_in") {
    return with("mlp.dense1");
  }
  if (part == "mlp_out") {
    return with("mlp.dense2");
  }
  return std::nullopt;
}

std::optional<std::string> with_prefix(const std::string& prefix,
                                       const std::optional<std::string>& rest) {
  return rest ? std::optional<std::string>(prefix + *rest) : std::nullopt;
}

std::optional<std::string> input_tensor(const InputSpec& input, std::string_view name) {
  const std::string prefix = "perceiver.input_preprocessor.";
  if (name == "padding") {
    return prefix + "padding." + input.name;
  }
  if (name == "mask_token") {
    return prefix + "mask." + input.name;
  }
  if (name == "embedding.weight") {
    return prefix + "embeddings.weight";
  }
  if (name == "position.table") {
    return prefix + (input.kind == InputKind::kText ? "position_embeddings.weight"
                                                    : "position_embeddings.position_embeddings");
  }
  if (take_prefix(name, "position.projection.")) {
    return cat(prefix, "positions_projection.", name);
  }
  if (take_prefix(name, "conv.0.")) {
    return cat(prefix, "convnet.conv.", name);
  }
  if (take_prefix(name, "batch_norm.0.")) {
    return cat(prefix, "convnet.batchnorm.", name);
  }
  if (take_prefix(name, "stem.")) {
    if (input.stem == Stem::kConv1x1) {
      return cat(prefix, "convnet_1x1.", name);
    }
    if (input.stem == Stem::kPatches) {
      return cat(prefix, "conv_after_patches.", name);
    }
  }
  return std::nullopt;
}

std::optional<std::string> output_tensor(const ModelSpec& spec, const OutputSpec& output,
                                         std::string_view name) {
  if (name == "padding") {
    return "perceiver.decoder.padding." + output.name;
  }
  if (name == "query.table") {
    const std::string decoder =
        spec.decoder.pad_queries ? "perceiver.decoder.modalities." + output.name + ".decoder."
        : output.head == HeadKind::kTiedEmbedding ? "perceiver.decoder."
                                                  : "perceiver.decoder.decoder.";
    return decoder + "output_position_encodings.position_embeddings";
  }
  if (take_prefix(name, "head.")) {
    if (output.head == HeadKind::kTiedEmbedding) {
      return cat("embedding_decoder.", name);
    }
    if (output.head == HeadKind::kLinear) {
      return cat("perceiver.output_postprocessor.modalities.", output.name, ".classifier.", name);
    }
  }
  return std::nullopt;
}

std::optional<std::string> their_name(const ModelSpec& spec, std::string_view name) {
  const bool masked_lm = !spec.decoder.final_project;
  const std::string decoder = masked_lm ? "perceiver.decoder." : "perceiver.decoder.decoder.";
  if (name == "latents") {
    return "perceiver.embeddings.latents";
  }
  if (take_prefix(name, "encoder.cross_attend.0.")) {
    return with_prefix("perceiver.encoder.cross_attention.", attention_tensor(name));
  }
  if (take_prefix(name, "encoder.block.0.")) {
    const std::string layer = take_word(name);
    return with_prefix(cat("perceiver.encoder.self_attends.", layer, "."), attention_tensor(name));
  }
  if (take_prefix(name, "decoder.cross_attend.")) {
    return with_prefix(decoder + "decoding_cross_attention.", attention_tensor(name));
  }
  if (take_prefix(name, "decoder.final.")) {
    return cat(decoder, "final_layer.", name);
  }
  if (take_prefix(name, "inputs.")) {
    const std::string part = take_word(name);
    return input_tensor(spec.input(part), name);
  }
  if (take_prefix(name, "outputs.")) {
    const std::string part = take_word(name);
    return output_tensor(spec, spec.output(part), name);
  }
  return std::nullopt;
}

// Older writers stored the tied output matrix once more; it adds nothing when it is the same.
bool repeats_embedding(const Array& tensor, const Array& embedding) {
  return tensor.dtype() == embedding.dtype() && tensor.shape() == embedding.shape() &&
         std::memcmp(tensor.bytes(), embedding.bytes(), static_cast<size_t>(tensor.nbytes())) == 0;
}

void drop_tied_duplicate(const ModelSpec& spec, ArrayMap& theirs) {
  const auto embedding = theirs.find("perceiver.input_preprocessor.embeddings.weight");
  if (spec.architecture != "PerceiverForMaskedLM" || embedding == theirs.end()) {
    return;
  }
  for (const char* name : {"embedding_decoder.weight", "embedding_decoder.embeddings.weight",
                           "embedding_decoder.decoder.weight"}) {
    const auto found = theirs.find(name);
    if (found != theirs.end() && repeats_embedding(found->second, embedding->second)) {
      theirs.erase(found);
    }
  }
}

}  // namespace

std::vector<NamePair> hugging_face_names(const ModelSpec& spec) {
  std::vector<NamePair> pairs;
  for (const ParameterInfo& info : parameter_table(spec)) {
    const std::optional<std::string> theirs = their_name(spec, info.name);
    if (!theirs) {
      throw Error(ErrorCode::kUnsupported,
                  cat("transformers has no class with the tensor ", info.name));
    }
    pairs.push_back({info.name, *theirs});
  }
  return pairs;
}

ArrayMap from_hugging_face(const ModelSpec& spec, const ArrayMap& theirs,
                           const std::string& where) {
  const std::vector<NamePair> pairs = hugging_face_names(spec);
  const std::vector<ParameterInfo> table = parameter_table(spec);
  std::vector<spec_detail::WantedTensor> wanted;
  for (size_t i = 0; i < pairs.size(); ++i) {
    wanted.push_back({pairs[i].theirs, table[i].shape, table[i].dtype});
  }
  ArrayMap source = theirs;  // shares the data
  drop_tied_duplicate(spec, source);
  spec_detail::check_tensors(wanted, source, where);
  ArrayMap ours;
  for (const NamePair& pair : pairs) {
    ours[pair.ours] = source.at(pair.theirs);
  }
  return ours;
}

ArrayMap to_hugging_face(const ModelSpec& spec, const ArrayMap& ours) {
  check_parameters(spec, ours, "the model's weights");
  ArrayMap theirs;
  for (const NamePair& pair : hugging_face_names(spec)) {
    theirs[pair.theirs] = ours.at(pair.ours);
  }
  return theirs;
}

}  // namespace perceiver
