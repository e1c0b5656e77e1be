#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace perceiver::train {

/// A table with a header line.
struct DelimitedTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  ///< each as wide as the header
  std::vector<int64_t> lines;                  ///< where each row begins in the file, from 1

  /// Which column has this name. @throws Error(kFormat) naming the nearest column
  size_t column(const std::string& name) const;
  /// "labels.csv: line 7", for messages.
  std::string where(size_t row) const;

  std::string name;  ///< the file, printable
};

/// Reads a table: tab-separated when the first line holds a tab (then quotes mean nothing), else
/// comma-separated with RFC 4180's quotes ("a, b" is one field, "" inside it is one quote). A byte
/// order mark, carriage returns before line feeds and empty lines are dropped.
/// @throws Error(kIo); Error(kFormat) naming the line for a row of another width or of more than
///         4,096 fields, an open quote, a file without rows or above 256 MiB
DelimitedTable read_delimited(const std::filesystem::path& path);
/// The same of text in memory. @param name  what to call it in messages
DelimitedTable parse_delimited(std::string text, const std::string& name);

}  // namespace perceiver::train
