#pragma once

#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"

// transformers' side of the language: config.json both ways and tensor names both ways.

namespace perceiver {

/// A model as a transformers folder describes it.
struct HuggingFaceConfig {
  ModelSpec spec;
  double initializer_range = 0.02;
};

/// Translates `config.json`: absent keys take transformers' class defaults, documented legacy keys
/// are ignored, any other unknown key is an error. `architectures[0]` decides the model class.
/// The result reproduces transformers (erf GELU, its conv padding, masks and residuals).
/// @throws Error(kFormat), Error(kUnsupported) naming the key
HuggingFaceConfig config_from_hugging_face(const Json& config, const std::string& where);

/// @throws Error(kUnsupported) when transformers has no class for the spec, saying what stands in
/// the way
Json config_to_hugging_face(const ModelSpec& spec);
/// Whether config_to_hugging_face would succeed.
bool has_hugging_face_form(const ModelSpec& spec);

/// One tensor under both names; shapes are equal but for a leading 1 or a squeezed axis.
struct NamePair {
  std::string ours;
  std::string theirs;
};
/// Complete for `spec.architecture`: every tensor of parameter_table() and no other.
std::vector<NamePair> hugging_face_names(const ModelSpec& spec);

/// Renames and reshapes. Missing, surplus and misshapen tensors are named in one error under
/// *their* names; duplicates of tied tensors that transformers may store are accepted.
/// @throws Error(kFormat)
ArrayMap from_hugging_face(const ModelSpec& spec, const ArrayMap& theirs, const std::string& where);
ArrayMap to_hugging_face(const ModelSpec& spec, const ArrayMap& ours);

}  // namespace perceiver
