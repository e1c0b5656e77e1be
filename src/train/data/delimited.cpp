#include "train/data/delimited.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "train/fields.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
constexpr size_t kMaxFields = 4096;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Takes records off the front of a text.
class Parser {
 public:
  Parser(std::string_view text, const std::string& name)
      : text_(text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text),
        name_(name) {
    const std::string_view first = text_.substr(0, text_.find('\n'));
    separator_ = first.find('\t') != std::string_view::npos ? '\t' : ',';
  }

  int64_t line() const { return line_; }

  // False at the end. Empty lines are passed over.
  bool next(std::vector<std::string>& fields) {
    fields.clear();
    while (at_ < text_.size() && take_line_end()) {
    }
    if (at_ >= text_.size()) {
      return false;
    }
    record_line_ = line_;
    do {
      if (fields.size() == kMaxFields) {
        throw Error(ErrorCode::kFormat,
                    cat(name_, " line ", record_line_, ": more than ", kMaxFields, " fields"));
      }
      fields.push_back(quoted() ? take_quoted() : take_plain());
    } while (take_separator());
    if (at_ < text_.size() && !take_line_end()) {
      throw Error(ErrorCode::kFormat,
                  cat(name_, " line ", line_, ": text goes on behind a closing quote"));
    }
    return true;
  }

  int64_t record_line() const { return record_line_; }

 private:
  bool take_line_end() {
    const size_t length = text_.substr(at_).starts_with("\r\n") ? 2 : text_[at_] == '\n' ? 1 : 0;
    at_ += length;
    line_ += length > 0 ? 1 : 0;
    return length > 0;
  }

  bool take_separator() {
    if (at_ < text_.size() && text_[at_] == separator_) {
      ++at_;
      return true;
    }
    return false;
  }

  bool quoted() const { return separator_ == ',' && at_ < text_.size() && text_[at_] == '"'; }

  std::string take_plain() {
    const char stops[] = {separator_, '\n', '\0'};
    const size_t end = std::min(text_.find_first_of(stops, at_), text_.size());
    std::string field(text_.substr(at_, end - at_));
    at_ = end;
    if (!field.empty() && field.back() == '\r' && end < text_.size() && text_[end] == '\n') {
      field.pop_back();
    }
    return field;
  }

  std::string take_quoted() {
    const int64_t opened = line_;
    std::string field;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '"' && !text_.substr(at_).starts_with("\"\"")) {
        ++at_;
        return field;
      }
      at_ += text_[at_] == '"' ? 1 : 0;
      line_ += text_[at_] == '\n' ? 1 : 0;
      field += text_[at_];
    }
    throw Error(ErrorCode::kFormat, cat(name_, " line ", opened, ": a quote is never closed"));
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
  int64_t line_ = 1, record_line_ = 1;
  char separator_ = ',';
};

}  // namespace

size_t DelimitedTable::column(const std::string& wanted) const {
  const auto found = std::find(header.begin(), header.end(), wanted);
  if (found == header.end()) {
    const std::string near = nearest_word(wanted, header);
    throw Error(ErrorCode::kFormat,
                cat(name, ": no column '", printable(wanted, 40), "'",
                    near.empty() ? cat("; the first is '", printable(header[0], 40), "'")
                                 : cat("; did you mean '", printable(near, 40), "'?")));
  }
  return static_cast<size_t>(found - header.begin());
}

std::string DelimitedTable::where(size_t row) const {
  return cat(name, " line ", lines[row]);
}

DelimitedTable parse_delimited(std::string_view text, const std::string& name) {
  DelimitedTable table;
  table.name = name;
  Parser parser(text, table.name);
  std::vector<std::string> fields;
  if (!parser.next(table.header)) {
    throw Error(ErrorCode::kFormat, cat(name, ": the file is empty; a header line is needed"));
  }
  while (parser.next(fields)) {
    if (fields.size() != table.header.size()) {
      throw Error(ErrorCode::kFormat, cat(name, " line ", parser.record_line(), ": ", fields.size(),
                                          " field(s), the header has ", table.header.size()));
    }
    table.rows.push_back(fields);
    table.lines.push_back(parser.record_line());
  }
  if (table.rows.empty()) {
    throw Error(ErrorCode::kFormat, cat(name, ": no rows behind the header"));
  }
  return table;
}

DelimitedTable read_delimited(const std::filesystem::path& path) {
  return parse_delimited(read_file(path, kMaxBytes), printable(path.string()));
}

}  // namespace perceiver::train
