#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "perceiver/train/recipe.h"
#include "train/random.h"

namespace perceiver::train {

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
