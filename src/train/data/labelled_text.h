#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "train/data/text_corpus.h"
#include "train/data/text_examples.h"

namespace perceiver::train {

/// A text with a class for every byte; -1 where none is asked for.
struct LabelledText {
  std::string text;
  std::vector<int64_t> labels;
};

/// How labelled tokens in a file become bytes.
struct TokenFileFormat {
  std::vector<std::string> labels;  ///< words of the second column, in the order of the classes
  bool first_byte_only = false;     ///< a token is asked at its first byte alone, not at every byte
  int64_t max_bytes = 0;            ///< longer sentences are split between tokens
};

/// Reads a file of two columns, as CoNLL's: token TAB label, one a line, a blank line after each
/// sentence. Tokens are joined by spaces, which have no label.
/// @throws Error(kFormat) naming file and line of a line without exactly one tab, of an unknown
///         label, or of a token longer than a text may be, once more than bad.limit sentences were
///         left out because of such a line; Error(kIo)
std::vector<LabelledText> read_labelled_text(const std::filesystem::path& path,
                                             const TokenFileFormat& format, BadRows& bad);

/// Labels that follow from the text around a byte, never from the byte alone.
enum class LabelQuestion {
  kQuoted,    ///< quotes are put around runs of words: 0 outside, 1 inside; the marks not asked
  kRepeated,  ///< letters of a word: 1 if it came before in this text, 0 if not; the rest not asked
};

/// One text of at most `bytes` bytes made of `plain`; 0 to 3 runs of words are quoted.
LabelledText label_text(LabelQuestion question, std::string_view plain, int64_t bytes,
                        Random& random);

}  // namespace perceiver::train
