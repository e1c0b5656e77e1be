#include "train/data/text_corpus.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;
constexpr int64_t kNearWord = 24;  // bytes to look ahead for the start of a word

size_t find_marker(const std::string& text, const std::string& marker, size_t from,
                   const std::filesystem::path& path) {
  const size_t at = text.find(marker, from);
  if (at == std::string::npos) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": no line holds the marker '",
                                        printable(marker, 60), "'"));
  }
  return at;
}

}  // namespace

std::string read_text(const TextFile& file) {
  std::string raw = read_file(file.path, kMaxTextBytes);
  if (raw.starts_with("\xEF\xBB\xBF")) {
    raw.erase(0, 3);
  }
  size_t begin = 0;
  size_t end = raw.size();
  if (!file.begin_after.empty()) {
    begin = raw.find('\n', find_marker(raw, file.begin_after, 0, file.path));
    begin = begin == std::string::npos ? raw.size() : begin + 1;
  }
  if (!file.end_before.empty()) {
    const size_t marker = find_marker(raw, file.end_before, begin, file.path);
    const size_t line = marker == 0 ? std::string::npos : raw.rfind('\n', marker - 1);
    end = line == std::string::npos ? begin : std::max(begin, line + 1);
  }
  std::string text;
  text.reserve(end - begin);
  for (size_t i = begin; i < end; ++i) {
    if (raw[i] != '\r' || i + 1 == end || raw[i + 1] != '\n') {
      text += raw[i];
    }
  }
  return text;
}

TextCorpus::TextCorpus(const TextDataSpec& spec, int64_t min_bytes) {
  for (const TextFile& file : spec.files) {
    File& added = files_.emplace_back();
    added.text = read_text(file);
    const auto size = static_cast<double>(added.text.size());
    added.training = static_cast<int64_t>(size * (1 - spec.held_out));
    if (added.training < min_bytes) {
      throw Error(ErrorCode::kArgument, cat(printable(file.path.string()), ": ", added.training,
                                            " bytes to train on, an example needs ", min_bytes));
    }
    added.weight = file.weight;
    training_bytes_ += added.training;
    weights_ += file.weight;
  }
}

const TextCorpus::File& TextCorpus::draw_file(double drawn) const {
  double left = drawn * weights_;
  const File* file = files_.data();
  while (left >= file->weight && file != &files_.back()) {
    left -= file->weight;
    ++file;
  }
  return *file;
}

std::string_view TextCorpus::draw(int64_t length, Random& random) const {
  const File* file = weights_ > 0 ? &draw_file(random.uniform()) : files_.data();
  int64_t place = random.below(weights_ > 0 ? file->training : training_bytes_);
  while (place >= file->training) {
    place -= file->training;
    ++file;
  }
  const int64_t last = file->training - length;
  int64_t begin = std::min(place, last);
  for (int64_t i = begin; i < std::min(begin + kNearWord, last); ++i) {
    if (file->text[static_cast<size_t>(i)] == ' ' || file->text[static_cast<size_t>(i)] == '\n') {
      begin = i + 1;
      break;
    }
  }
  return std::string_view(file->text)
      .substr(static_cast<size_t>(begin), static_cast<size_t>(length));
}

std::vector<std::string_view> TextCorpus::held_out(int64_t length) const {
  std::vector<std::string_view> pieces;
  for (const File& file : files_) {
    const std::string_view text = file.text;
    for (size_t at = static_cast<size_t>(file.training);
         at + static_cast<size_t>(length) <= text.size(); at += static_cast<size_t>(length)) {
      pieces.push_back(text.substr(at, static_cast<size_t>(length)));
    }
  }
  return pieces;
}

}  // namespace perceiver::train
