#include "train/data/text_examples.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

// Values are written as decimal numbers, perhaps with a leading plus.
double parse_value(const std::string& text, const std::string& where) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || !std::isfinite(value)) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": the label '", printable(text, 40), "' is no finite number"));
  }
  return value;
}

int64_t find_label(const std::string& word, const std::vector<std::string>& labels,
                   const std::string& where) {
  const auto found = std::find(labels.begin(), labels.end(), word);
  if (found == labels.end()) {
    throw Error(ErrorCode::kFormat, cat(where, ": the label '", printable(word, 40),
                                        "' is none of the ", labels.size(), " in `labels`"));
  }
  return found - labels.begin();
}

// Columns of a source as numbers of one file.
struct Columns {
  std::vector<int64_t> text;
  int64_t label = 0;
};

TextExample read_row(const TableRow& row, size_t width, const Columns& columns,
                     const TableSource& source, const std::string& where) {
  if (row.fields.size() != width) {
    throw Error(ErrorCode::kFormat,
                cat(where, " has ", row.fields.size(), " fields, the first row has ", width));
  }
  TextExample example;
  example.first = row.fields[static_cast<size_t>(columns.text[0])];
  if (columns.text.size() > 1) {
    example.second = row.fields[static_cast<size_t>(columns.text[1])];
  }
  if (example.first.empty() || (columns.text.size() > 1 && example.second.empty())) {
    throw Error(ErrorCode::kFormat, cat(where, ": a text is empty"));
  }
  const std::string& label = row.fields[static_cast<size_t>(columns.label)];
  if (source.labels.empty()) {
    example.value = parse_value(label, where);
  } else {
    example.label = find_label(label, source.labels, where);
  }
  return example;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || text[i] == ' ' || text[i] == '\n') {
      if (i > begin) {
        words.push_back(text.substr(begin, i - begin));
      }
      begin = i + 1;
    }
  }
  return words;
}

std::string joined(const std::vector<std::string_view>& words) {
  std::string text;
  for (const std::string_view word : words) {
    text += text.empty() ? "" : " ";
    text += word;
  }
  return text;
}

// Two texts of as many words; each word of the second is that of the first with a probability
// drawn for the pair, else one of another place of the corpus.
TextExample overlapping(std::string_view one, std::string_view other, Random& random) {
  std::vector<std::string_view> first = words_of(one);
  std::vector<std::string_view> second = words_of(other);
  const size_t count = std::min(first.size(), second.size());
  first.resize(count);
  second.resize(count);
  const double kept = random.uniform();
  for (size_t i = 0; i < count; ++i) {
    if (random.uniform() < kept) {
      second[i] = first[i];
    }
  }
  while (joined(second).size() > other.size()) {  // longer words took the place of shorter ones
    first.pop_back();
    second.pop_back();
  }
  double same = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    same += first[i] == second[i] ? 1 : 0;
  }
  const double share = same / static_cast<double>(std::max<size_t>(1, first.size()));
  return {joined(first), joined(second), 0, share};
}

TextExample with_vowel_share(std::string_view text) {
  double letters = 0;
  double vowels = 0;
  for (const char c : text) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    letters += lower >= 'a' && lower <= 'z' ? 1 : 0;
    vowels += std::string_view("aeiou").find(lower) != std::string_view::npos ? 1 : 0;
  }
  return {std::string(text), "", 0, vowels / std::max(1.0, letters)};
}

// Where generated examples take their texts from: the part to train on or the one held out.
class Pieces {
 public:
  Pieces(const TextCorpus& corpus, int64_t length, bool held_out)
      : corpus_(corpus),
        length_(length),
        from_held_out_(held_out),
        held_out_(held_out ? corpus.held_out(length) : std::vector<std::string_view>()) {
    if (held_out && held_out_.size() < 2) {
      throw Error(ErrorCode::kArgument,
                  cat("data.held_out leaves ", held_out_.size(), " pieces of ", length,
                      " bytes of the generated task's files, 2 are the least"));
    }
  }

  std::string_view draw(Random& random) const {
    return from_held_out_ ? held_out_[static_cast<size_t>(
                                random.below(static_cast<int64_t>(held_out_.size())))]
                          : corpus_.draw(length_, random);
  }

 private:
  const TextCorpus& corpus_;
  int64_t length_;
  bool from_held_out_;
  std::vector<std::string_view> held_out_;
};

std::vector<TextDataSpec> one_by_one(const TextDataSpec& all) {
  std::vector<TextDataSpec> specs;
  for (const TextFile& file : all.files) {
    specs.push_back(all);
    specs.back().files = {file};
  }
  return specs;
}

// One piece and the file it comes from, or two that come from the same file every other time.
TextExample from_sources(const std::vector<Pieces>& files, bool pair, Random& random) {
  const auto count = static_cast<int64_t>(files.size());
  const int64_t first = random.below(count);
  TextExample example{std::string(files[static_cast<size_t>(first)].draw(random)), "", first, 0};
  if (pair) {
    example.label = random.below(2);
    const int64_t second =
        example.label == 1 ? first : (first + 1 + random.below(count - 1)) % count;
    example.second = files[static_cast<size_t>(second)].draw(random);
  }
  return example;
}

}  // namespace

bool asks_pairs(TextQuestion question) {
  return question == TextQuestion::kWordOverlap || question == TextQuestion::kSameSource;
}

bool asks_class(TextQuestion question) {
  return question == TextQuestion::kSource || question == TextQuestion::kSameSource;
}

std::vector<TextExample> read_text_examples(const std::filesystem::path& path,
                                            const TableSource& source, BadRows& bad) {
  TableReader reader(path, source.format);
  Columns columns;
  for (const Column& column : source.text) {
    columns.text.push_back(reader.find(column));
  }
  columns.label = reader.find(source.label);
  std::vector<TextExample> examples;
  for (TableRow row; reader.next(row);) {
    try {
      examples.push_back(read_row(row, reader.width(), columns, source, reader.where(row)));
    } catch (const Error&) {
      if (bad.skipped == bad.limit) {
        throw;
      }
      ++bad.skipped;
    }
  }
  if (examples.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": holds no examples"));
  }
  return examples;
}

std::deque<TextCorpus> read_corpora(const GeneratedTexts& spec, int64_t max_bytes) {
  std::deque<TextCorpus> corpora;
  for (const TextDataSpec& text :
       asks_class(spec.question) ? one_by_one(spec.text) : std::vector{spec.text}) {
    corpora.emplace_back(text, max_bytes);
  }
  return corpora;
}

std::vector<TextExample> generate_text_examples(const GeneratedTexts& spec,
                                                const std::deque<TextCorpus>& corpora,
                                                bool held_out, uint64_t seed, int64_t max_bytes) {
  const bool pairs = asks_pairs(spec.question);
  const int64_t length = pairs ? max_bytes / 2 : max_bytes;
  std::vector<Pieces> pieces;
  for (const TextCorpus& corpus : corpora) {
    pieces.emplace_back(corpus, length, held_out);
  }
  const int64_t count = held_out ? spec.test_examples : spec.train_examples;
  // Tests are the same whatever the seed, so that runs compare.
  const uint64_t stream = held_out ? 0 : seed;
  std::vector<TextExample> examples;
  for (int64_t i = 0; i < count; ++i) {
    Random random{stream, kTextPairs, held_out ? 1U : 0U, static_cast<uint64_t>(i)};
    if (asks_class(spec.question)) {
      examples.push_back(from_sources(pieces, pairs, random));
      continue;
    }
    const std::string_view one = pieces[0].draw(random);
    if (pairs) {
      examples.push_back(overlapping(one, pieces[0].draw(random), random));
    } else {
      const int64_t bytes = std::max<int64_t>(1, length / 4) +
                            random.below(length - std::max<int64_t>(1, length / 4) + 1);
      examples.push_back(with_vowel_share(one.substr(0, static_cast<size_t>(bytes))));
    }
  }
  return examples;
}

}  // namespace perceiver::train
