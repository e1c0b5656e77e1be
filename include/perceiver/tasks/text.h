#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/base/progress.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/ranking.h"
#include "perceiver/tokens/engine.h"

// Questions about text for models that read UTF-8 bytes.

namespace perceiver::tasks {

/// Whether the model expects [CLS] text [SEP]: transformers models do, DeepMind's do not.
/// "add_special_tokens" in the folder's preprocessor_config.json decides where it is present.
bool adds_special_tokens(const Bundle& bundle);

struct FillMaskOptions {
  int64_t top = 5;          ///< candidates reported per masked byte
  bool one_by_one = false;  ///< fill the surest byte, read again, and so on: slower, more coherent
  ProgressFn progress;
};

/// A byte the model proposes. Special tokens can be proposed too but never fill a mask.
struct ByteCandidate {
  int64_t id = 0;          ///< token id: byte + 6
  std::string shown;       ///< its character, or "\xe2" for a byte that is none by itself
  double probability = 0;  ///< softmax over the whole vocabulary
};

struct MaskedByte {
  int64_t position = 0;                   ///< token position, special tokens counted
  std::vector<ByteCandidate> candidates;  ///< surest first
  int64_t filled_with = 0;                ///< token id
};

struct FilledText {
  std::string given;   ///< with literal [MASK]s
  std::string filled;  ///< every [MASK] replaced; ill-formed UTF-8 shows as U+FFFD
  std::vector<MaskedByte> masks;
};

/// Fills every literal "[MASK]" of `text` (one stands for one byte). Only the masked rows are
/// decoded.
/// @throws Error(kArgument) when the model is no masked language model, the text is too long or
/// holds
///         no [MASK]
FilledText fill_mask(const Bundle& bundle, Engine& engine, std::string_view text,
                     const FillMaskOptions& options = {});

/// Replaces every occurrence of `part` by one [MASK] per byte.
/// @throws Error(kArgument) when `part` is empty or does not occur
std::string hide(std::string_view text, std::string_view part);
/// Replaces every single [MASK] by `count` of them.
std::string widen_masks(std::string_view text, int64_t count);

/// The class of a text, surest first.
/// @throws Error(kArgument) when the model is no text classifier or the text is too long
std::vector<Ranked> classify_text(const Bundle& bundle, Engine& engine, std::string_view text,
                                  int64_t top);

/// Whether the model reads one text / answers with one byte per token / with one class.
bool reads_text(const ModelSpec& spec);
bool is_masked_language_model(const ModelSpec& spec);
bool is_text_classifier(const ModelSpec& spec);

}  // namespace perceiver::tasks
