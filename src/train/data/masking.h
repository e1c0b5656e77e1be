#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "train/random.h"

namespace perceiver::train {

/// What is hidden from a masked language model. The weights say how often an example is masked in
/// which way; they need not sum to 1.
struct MaskingSpec {
  double rate = 0.15;      ///< expected share of hidden bytes (of words, for kWords)
  double byte_weight = 0;  ///< single bytes, independently
  double word_weight = 1;  ///< whole whitespace-delimited words, independently (the paper's way)
  double span_weight = 0;  ///< runs of bytes of geometric length
  double span_length = 5;  ///< their mean
  /// Share of the loss on bytes that are not hidden, against 1 on the hidden ones. They are trivial
  /// to tell, but only once every place of the input reaches its place of the output through the
  /// latents: asking for them teaches that way early.
  double visible_weight = 0;
};

enum class MaskKind { kBytes, kWords, kSpans };

/// Which bytes of `text` to hide, one flag each. Draws as few numbers as it can in text order:
///   kBytes  one per byte: hidden if below `rate`
///   kWords  one per whitespace-delimited word: hidden whole if below `rate`
///   kSpans  one per byte outside a span: a span starts if below rate / length; one for its length
/// tools/baselines/trigram.py repeats kBytes and kWords to measure the same places.
std::vector<uint8_t> choose_masked(MaskKind kind, const MaskingSpec& spec, std::string_view text,
                                   Random& random);

/// Draws a kind by the weights of `spec`.
MaskKind draw_mask_kind(const MaskingSpec& spec, Random& random);

}  // namespace perceiver::train
