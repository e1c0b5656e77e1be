#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "train/data/table.h"
#include "train/data/text_corpus.h"

namespace perceiver::train {

/// One or two texts and what is to be said of them.
struct TextExample {
  std::string first, second;  ///< second: empty unless the task reads pairs
  int64_t label = 0;          ///< class of a classification
  double value = 0;           ///< of a regression
};

/// Which columns of a table make examples.
struct TableSource {
  TableFormat format;
  std::vector<Column> text;  ///< one or two
  Column label;
  /// Words of the label column in the order of the classes; empty = its numbers are values.
  std::vector<std::string> labels;
};

/// Counts the bad rows of several files against one limit (Recipe::skip_bad).
struct BadRows {
  int64_t limit = 0;
  int64_t skipped = 0;
};

/// All examples of a file.
/// @throws Error(kIo), Error(kFormat) naming file and line of a row with another number of fields
///         than the first, an unknown label, a value that is no finite number, or an empty text,
///         once more than bad.limit such rows were left out; Error(kArgument) for a missing column
std::vector<TextExample> read_text_examples(const std::filesystem::path& path,
                                            const TableSource& source, BadRows& bad);

/// Problems made of plain text.
enum class TextQuestion {
  kWordOverlap,  ///< two texts: the share of the words that stand in both, at the same place
  kVowelShare,   ///< one text: the share of vowels among its letters
  kSource,       ///< one text: the number of the file it was taken from
  kSameSource,   ///< two texts: whether both were taken from the same file (1) or not (0)
};
/// Whether the question is about two texts.
bool asks_pairs(TextQuestion question);
/// Whether the answer is a class; else it is a value.
bool asks_class(TextQuestion question);

/// What generated examples are made of.
struct GeneratedTexts {
  TextQuestion question = TextQuestion::kWordOverlap;
  TextDataSpec text;
  int64_t train_examples = 0;
  int64_t test_examples = 0;
};

/// The files of generated examples: one corpus of all, or one for each where the file is asked for.
/// @param max_bytes  of all texts of an example
/// @throws Error(kArgument) when a training part is shorter than that; as TextCorpus
std::deque<TextCorpus> read_corpora(const GeneratedTexts& spec, int64_t max_bytes);

/// Examples from the corpora's training parts (train_examples of them), or from their held-out
/// parts (test_examples).
/// @param corpora, max_bytes  as of read_corpora()
/// @throws Error(kArgument) when a held-out part is too short
std::vector<TextExample> generate_text_examples(const GeneratedTexts& spec,
                                                const std::deque<TextCorpus>& corpora,
                                                bool held_out, uint64_t seed, int64_t max_bytes);

/// Length from which word_overlap has texts of some words.
inline constexpr int64_t kMinOverlapBytes = 48;

}  // namespace perceiver::train
