#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace perceiver::train {

/// How a text file is cut into rows and fields.
struct TableFormat {
  char separator = '\t';
  bool header = true;  ///< the first row names the columns
  /// RFC 4180: a field that begins with a quote ends at the next single one; "" is a quote, and
  /// separators and line breaks inside are data. false: a quote is a character like any other, as
  /// in GLUE's files, where a field may begin with a lone one.
  bool quoted = false;
};

/// A column by name or, when `name` is empty, by number from 0.
struct Column {
  std::string name;
  int64_t index = 0;
};

struct TableRow {
  int64_t line = 0;  ///< where it begins in the file, from 1
  std::vector<std::string> fields;
};

/// Rows of a TSV or CSV file, one after the other. Lines end with LF or CR LF; a byte order mark is
/// dropped, empty lines are skipped.
class TableReader {
 public:
  /// @throws Error(kIo), Error(kFormat) if larger than 1 GiB or without a header it should have
  TableReader(const std::filesystem::path& path, const TableFormat& format);
  /// Of text in memory. @param name  what to call it in messages
  TableReader(std::string text, std::string name, const TableFormat& format);

  /// The next row. @return false at the end
  /// @throws Error(kFormat) naming the line of a quote that is never closed, of text behind a
  /// closed
  ///         one, or of a row of more than 4,096 fields
  bool next(TableRow& row);
  /// Number of a column. @throws Error(kArgument) naming the file and its columns
  int64_t find(const Column& column) const;
  /// Fields of the first row.
  size_t width() const { return width_; }
  /// "glue/dev.tsv: line 7", for messages about a row.
  std::string where(const TableRow& row) const;

 private:
  void add_field(TableRow& row);
  std::string quoted_field(const TableRow& row);
  bool at_line_end() const;
  void skip_line_end();

  std::string name_;  ///< printable
  TableFormat format_;
  std::string text_;
  size_t at_ = 0;
  int64_t line_ = 1;
  std::vector<std::string> header_;
  size_t width_ = 0;
};

}  // namespace perceiver::train
