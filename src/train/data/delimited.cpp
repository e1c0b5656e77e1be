#include "train/data/delimited.h"

#include <algorithm>
#include <utility>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "train/data/table.h"
#include "train/fields.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{256} << 20;

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
  return cat(name, ": line ", lines[row]);
}

DelimitedTable parse_delimited(std::string text, const std::string& name) {
  const bool tabs = text.find('\t') < text.find('\n');
  TableReader reader(std::move(text), name,
                     {.separator = tabs ? '\t' : ',', .header = false, .quoted = !tabs});
  DelimitedTable table;
  table.name = name;
  TableRow row;
  if (!reader.next(row)) {
    throw Error(ErrorCode::kFormat, cat(name, ": the file is empty; a header line is needed"));
  }
  table.header = row.fields;
  while (reader.next(row)) {
    if (row.fields.size() != table.header.size()) {
      throw Error(ErrorCode::kFormat, cat(reader.where(row), ": ", row.fields.size(),
                                          " field(s), the header has ", table.header.size()));
    }
    table.rows.push_back(row.fields);
    table.lines.push_back(row.line);
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
