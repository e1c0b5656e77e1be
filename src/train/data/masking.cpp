#include "train/data/masking.h"

#include <algorithm>
#include <cmath>

namespace perceiver::train {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

void mask_bytes(double rate, std::string_view text, Random& random, std::vector<uint8_t>& hidden) {
  for (size_t i = 0; i < text.size(); ++i) {
    hidden[i] = random.uniform() < rate;
  }
}

void mask_words(double rate, std::string_view text, Random& random, std::vector<uint8_t>& hidden) {
  bool inside = false;
  bool hide = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_space(text[i])) {
      inside = false;
      continue;
    }
    if (!inside) {
      inside = true;
      hide = random.uniform() < rate;
    }
    hidden[i] = hide;
  }
}

void mask_spans(const MaskingSpec& spec, std::string_view text, Random& random,
                std::vector<uint8_t>& hidden) {
  const double stop = 1 / spec.span_length;
  // A span covers span_length bytes on average, so of the bytes outside one must start a share of
  // rate / (length (1 - rate)).
  const double start =
      std::min(1.0, spec.rate / (spec.span_length * std::max(1e-9, 1 - spec.rate)));
  for (size_t i = 0; i < text.size(); ++i) {
    if (random.uniform() >= start) {
      continue;
    }
    // Geometric with mean span_length, by inversion.
    const double u = random.uniform();
    const double extra = stop >= 1 ? 0 : std::floor(std::log1p(-u) / std::log1p(-stop));
    const size_t left = text.size() - i;
    const size_t length =
        extra + 1 >= static_cast<double>(left) ? left : static_cast<size_t>(extra) + 1;
    std::fill_n(hidden.begin() + static_cast<std::ptrdiff_t>(i), length, uint8_t{1});
    i += length;  // and the loop's step leaves one byte visible between two spans
  }
}

}  // namespace

std::vector<uint8_t> choose_masked(MaskKind kind, const MaskingSpec& spec, std::string_view text,
                                   Random& random) {
  std::vector<uint8_t> hidden(text.size(), 0);
  switch (kind) {
    case MaskKind::kBytes:
      mask_bytes(spec.rate, text, random, hidden);
      break;
    case MaskKind::kWords:
      mask_words(spec.rate, text, random, hidden);
      break;
    case MaskKind::kSpans:
      mask_spans(spec, text, random, hidden);
      break;
  }
  return hidden;
}

MaskKind draw_mask_kind(const MaskingSpec& spec, Random& random) {
  const double drawn = random.uniform() * (spec.byte_weight + spec.word_weight + spec.span_weight);
  if (drawn < spec.byte_weight) {
    return MaskKind::kBytes;
  }
  return drawn < spec.byte_weight + spec.word_weight ? MaskKind::kWords : MaskKind::kSpans;
}

}  // namespace perceiver::train
