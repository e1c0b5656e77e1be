#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "perceiver/base/array.h"
#include "perceiver/tokens/engine.h"

namespace perceiver {

/// The encoder's cross-attention, stopped anywhere: softmax state over the tokens seen so far.
/// Blocks may come in any order and from anywhere; two states over disjoint tokens merge exactly.
/// The size is that of a few latent arrays, whatever the number of tokens.
/// Made by Engine::start_encoding(); only for specs with a single cross-attend.
class EncoderState {
 public:
  virtual ~EncoderState() = default;

  /// Reads a block of one modality: raw values as in ModelInputs, but only some of them.
  /// @param modality  an input of the spec
  /// @param block     [B, n, rest...]: n consecutive slices of the first raw axis (image rows,
  /// video
  ///                  frames, samples, set elements, text ids), whole patches where there are
  ///                  patches
  /// @param begin     index of the block's first slice on that axis
  /// @param mask      BOOL [B, tokens of the block], true = attend; undefined = all
  /// @throws Error(kShape), Error(kArgument) naming the modality and both values;
  /// Error(kUnsupported)
  ///         for conv stems, whose blocks would need their neighbours' edges
  virtual void push(const std::string& modality, const Array& block, int64_t begin,
                    const Array& mask = {}) = 0;

  /// Adds what another state of the same model has seen. @throws Error(kArgument) if it is of
  /// another model or batch
  virtual void merge(const EncoderState& other) = 0;

  /// Tokens read so far.
  virtual int64_t tokens() const = 0;

  /// State as tensors, and a file of them (safetensors). The file names the model's widths, and
  /// loading into another model fails by name.
  virtual ArrayMap save() const = 0;
  virtual void load(const ArrayMap& saved) = 0;
};

}  // namespace perceiver
