#include "train/data/table.h"

#include <algorithm>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxTableBytes = uint64_t{1} << 30;
constexpr size_t kMaxFields = 4096;

}  // namespace

TableReader::TableReader(const std::filesystem::path& path, const TableFormat& format)
    : TableReader(read_file(path, kMaxTableBytes), printable(path.string()), format) {}

TableReader::TableReader(std::string text, std::string name, const TableFormat& format)
    : name_(std::move(name)), format_(format), text_(std::move(text)) {
  at_ = text_.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  const size_t begin = at_;
  TableRow first;
  const bool any = next(first);
  width_ = first.fields.size();
  if (format_.header) {
    if (!any) {
      throw Error(ErrorCode::kFormat, cat(name_, ": is empty, a header was expected"));
    }
    header_ = std::move(first.fields);
  } else {
    at_ = begin;
    line_ = 1;
  }
}

bool TableReader::at_line_end() const {
  return at_ >= text_.size() || text_[at_] == '\n' || text_.compare(at_, 2, "\r\n") == 0;
}

void TableReader::skip_line_end() {
  if (at_ < text_.size()) {
    at_ += text_[at_] == '\r' ? 2 : 1;
    ++line_;
  }
}

std::string TableReader::quoted_field(const TableRow& row) {
  std::string field;
  for (++at_; at_ < text_.size(); ++at_) {
    const char c = text_[at_];
    if (c == '"') {
      if (text_.compare(at_, 2, "\"\"") != 0) {
        ++at_;
        if (!at_line_end() && text_[at_] != format_.separator) {
          throw Error(ErrorCode::kFormat,
                      cat(name_, ": line ", line_, ": a quoted field is followed by text"));
        }
        return field;
      }
      ++at_;
    }
    line_ += c == '\n' ? 1 : 0;
    field += c;
  }
  throw Error(ErrorCode::kFormat, cat(where(row), ": a quote is never closed"));
}

void TableReader::add_field(TableRow& row) {
  if (row.fields.size() == kMaxFields) {
    throw Error(ErrorCode::kFormat, cat(where(row), " has more than ", kMaxFields, " fields"));
  }
  if (format_.quoted && at_ < text_.size() && text_[at_] == '"') {
    row.fields.push_back(quoted_field(row));
    return;
  }
  const size_t begin = at_;
  while (!at_line_end() && text_[at_] != format_.separator) {
    ++at_;
  }
  row.fields.emplace_back(text_, begin, at_ - begin);
}

bool TableReader::next(TableRow& row) {
  while (at_ < text_.size() && at_line_end()) {
    skip_line_end();
  }
  row.fields.clear();
  row.line = line_;
  if (at_ >= text_.size()) {
    return false;
  }
  for (;;) {
    add_field(row);
    if (at_line_end()) {
      skip_line_end();
      return true;
    }
    ++at_;  // the separator
  }
}

int64_t TableReader::find(const Column& column) const {
  if (column.name.empty()) {
    if (column.index >= static_cast<int64_t>(width_)) {
      throw Error(ErrorCode::kArgument, cat(name_, ": column ", column.index,
                                            " was asked for, there are ", width_, " (from 0)"));
    }
    return column.index;
  }
  const auto found = std::find(header_.begin(), header_.end(), column.name);
  if (found == header_.end()) {
    std::string names;
    for (const std::string& name : header_) {
      names += (names.empty() ? "" : ", ") + printable(name, 40);
    }
    throw Error(ErrorCode::kArgument, cat(name_, ": no column '", printable(column.name, 40), "'; ",
                                          header_.empty() ? "the file has no header"
                                                          : "it has " + printable(names, 400)));
  }
  return found - header_.begin();
}

std::string TableReader::where(const TableRow& row) const {
  return cat(name_, ": line ", row.line);
}

}  // namespace perceiver::train
