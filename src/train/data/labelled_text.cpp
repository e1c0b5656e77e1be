#include "train/data/labelled_text.h"

#include <algorithm>
#include <set>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;
constexpr int64_t kMaxQuotes = 3;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

void append_token(LabelledText& sentence, std::string_view token, int64_t label, bool first_only) {
  if (!sentence.text.empty()) {
    sentence.text += ' ';
    sentence.labels.push_back(-1);
  }
  sentence.text += token;
  sentence.labels.insert(sentence.labels.end(), token.size(), first_only ? -1 : label);
  if (first_only) {
    sentence.labels[sentence.labels.size() - token.size()] = label;
  }
}

// Reads a file sentence by sentence.
class SentenceReader {
 public:
  SentenceReader(const std::filesystem::path& path, const TokenFileFormat& format)
      : path_(path), format_(format), text_(read_file(path, kMaxFileBytes)) {
    at_ = text_.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  }

  // Appends the parts of the next sentence. @return false at the end
  bool next(std::vector<LabelledText>& parts) {
    std::string_view line;
    while (next_line(line) && line.empty()) {
    }
    if (line.empty()) {
      return false;
    }
    LabelledText part;
    do {
      add_line(line, part, parts);
    } while (next_line(line) && !line.empty());
    parts.push_back(std::move(part));
    return true;
  }

  // Goes on behind the sentence that could not be read.
  void skip_sentence() {
    std::string_view line;
    while (next_line(line) && !line.empty()) {
    }
  }

 private:
  bool next_line(std::string_view& line) {
    line = {};
    if (at_ >= text_.size()) {
      return false;
    }
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    line = std::string_view(text_).substr(at_, end - at_);
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    at_ = end + 1;
    ++line_;
    return true;
  }

  void add_line(std::string_view line, LabelledText& part, std::vector<LabelledText>& parts) {
    const size_t tab = line.find('\t');
    if (tab == 0 || tab == std::string_view::npos ||
        line.find('\t', tab + 1) != std::string_view::npos) {
      refuse(cat("must be a token, a tab and its label, is '", printable(line, 60), "'"));
    }
    const std::string_view token = line.substr(0, tab);
    const auto found =
        std::find(format_.labels.begin(), format_.labels.end(), line.substr(tab + 1));
    if (found == format_.labels.end()) {
      refuse(cat("the label '", printable(line.substr(tab + 1), 40), "' is none of the ",
                 format_.labels.size(), " in `labels`"));
    }
    const auto limit = static_cast<size_t>(format_.max_bytes);
    if (token.size() > limit) {
      refuse(cat("a token of ", token.size(), " bytes, the model reads ", limit));
    }
    if (!part.text.empty() && part.text.size() + 1 + token.size() > limit) {
      parts.push_back(std::move(part));
      part = {};
    }
    append_token(part, token, found - format_.labels.begin(), format_.first_byte_only);
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kFormat, cat(printable(path_.string()), ": line ", line_, ": ", what));
  }

  const std::filesystem::path& path_;
  const TokenFileFormat& format_;
  std::string text_;
  size_t at_ = 0;
  int64_t line_ = 0;
};

// A run of words as [begin, end) of the text.
using Runs = std::vector<std::pair<size_t, size_t>>;

Runs words_of(const std::string& text) {
  Runs words;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') {
      continue;
    }
    if (i == 0 || text[i - 1] == ' ') {
      words.emplace_back(i, i);
    }
    words.back().second = i + 1;
  }
  return words;
}

// `plain` without bytes that are not ASCII and without quotes, every run of white space one space.
std::string simple_text(std::string_view plain, size_t bytes) {
  std::string text;
  for (const char c : plain) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (space ? !text.empty() && text.back() != ' ' : c > ' ' && c < '\x7f' && c != '"') {
      text += space ? ' ' : c;
    }
    if (text.size() == bytes) {
      break;
    }
  }
  return text;
}

// 2n different words in order, each pair the first and the last of a quoted run.
Runs choose_runs(const Runs& words, Random& random) {
  const auto most = std::min<int64_t>(kMaxQuotes, static_cast<int64_t>(words.size()) / 2);
  const auto count = static_cast<size_t>(2 * random.below(most + 1));
  std::set<size_t> chosen;
  while (chosen.size() < count) {
    chosen.insert(static_cast<size_t>(random.below(static_cast<int64_t>(words.size()))));
  }
  Runs runs;
  for (auto word = chosen.begin(); word != chosen.end(); ++word) {
    const size_t begin = words[*word].first;
    runs.emplace_back(begin, words[*++word].second);
  }
  return runs;
}

LabelledText quoted(std::string_view plain, int64_t bytes, Random& random) {
  const auto room = static_cast<size_t>(std::max<int64_t>(1, bytes - 2 * kMaxQuotes));
  const std::string text = simple_text(plain, room);
  const Runs runs = choose_runs(words_of(text), random);
  LabelledText labelled;
  const auto add = [&](char c, int64_t label) {
    labelled.text += c;
    labelled.labels.push_back(label);
  };
  auto run = runs.begin();
  for (size_t i = 0; i < text.size(); ++i) {
    if (run != runs.end() && i == run->first) {
      add('"', -1);
    }
    add(text[i], run != runs.end() && i >= run->first ? 1 : 0);
    if (run != runs.end() && i + 1 == run->second) {
      add('"', -1);
      ++run;
    }
  }
  return labelled;
}

LabelledText repeated(std::string_view plain, int64_t bytes) {
  LabelledText labelled;
  labelled.text = simple_text(plain, static_cast<size_t>(bytes));
  labelled.labels.assign(labelled.text.size(), -1);
  std::set<std::string> seen;
  for (size_t begin = 0; begin < labelled.text.size(); ++begin) {
    std::string word;
    while (begin + word.size() < labelled.text.size() &&
           is_letter(labelled.text[begin + word.size()])) {
      word += lower(labelled.text[begin + word.size()]);
    }
    if (!word.empty()) {
      const int64_t label = seen.insert(word).second ? 0 : 1;
      std::fill_n(labelled.labels.begin() + static_cast<std::ptrdiff_t>(begin), word.size(), label);
      begin += word.size();
    }
  }
  return labelled;
}

}  // namespace

std::vector<LabelledText> read_labelled_text(const std::filesystem::path& path,
                                             const TokenFileFormat& format, BadRows& bad) {
  SentenceReader reader(path, format);
  std::vector<LabelledText> texts;
  for (bool more = true; more;) {
    const size_t before = texts.size();
    try {
      more = reader.next(texts);
    } catch (const Error&) {
      if (bad.skipped == bad.limit) {
        throw;
      }
      ++bad.skipped;
      texts.resize(before);
      reader.skip_sentence();
    }
  }
  if (texts.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": holds no sentences"));
  }
  return texts;
}

LabelledText label_text(LabelQuestion question, std::string_view plain, int64_t bytes,
                        Random& random) {
  return question == LabelQuestion::kQuoted ? quoted(plain, bytes, random) : repeated(plain, bytes);
}

}  // namespace perceiver::train
