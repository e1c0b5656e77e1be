#include "train/data/table.h"

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "train/tiny.h"

namespace perceiver::train {
namespace {

using Rows = std::vector<std::vector<std::string>>;

class Table : public ::testing::Test {
 protected:
  Rows read(const std::string& bytes, const TableFormat& format) {
    test::write_bytes(folder_ / "table", bytes);
    TableReader reader(folder_ / "table", format);
    Rows rows;
    lines_.clear();
    for (TableRow row; reader.next(row);) {
      rows.push_back(row.fields);
      lines_.push_back(row.line);
    }
    return rows;
  }

  void expect_refused(const std::string& bytes, const TableFormat& format,
                      const std::string& message) {
    try {
      read(bytes, format);
      FAIL() << "read; wanted: " << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }

  test::TemporaryFolder folder_;
  std::vector<int64_t> lines_;
};

constexpr TableFormat kPlain{.separator = '\t', .header = false, .quoted = false};
constexpr TableFormat kCsv{.separator = ',', .header = false, .quoted = true};

TEST_F(Table, QuotesOfGlueAreCharactersAndEndsOfLinesDropOut) {
  EXPECT_EQ(read("\xEF\xBB\xBF\"a lone quote\tb\r\n\r\n c\t\"d\"\ne\t", kPlain),
            (Rows{{"\"a lone quote", "b"}, {" c", "\"d\""}, {"e", ""}}));
  EXPECT_EQ(lines_, (std::vector<int64_t>{1, 3, 4}));
}

TEST_F(Table, ACarriageReturnAloneIsData) {
  EXPECT_EQ(read("a\rb\tc\r", kPlain), (Rows{{"a\rb", "c\r"}}));
}

TEST_F(Table, QuotedFieldsHoldSeparatorsQuotesAndLineBreaks) {
  EXPECT_EQ(read("\"a,b\",\"say \"\"hi\"\"\",\"two\r\nlines\"\nnot \"quoted\",\"\",x\n", kCsv),
            (Rows{{"a,b", "say \"hi\"", "two\r\nlines"}, {"not \"quoted\"", "", "x"}}));
  EXPECT_EQ(lines_, (std::vector<int64_t>{1, 3}));
}

TEST_F(Table, RefusesABrokenQuoteNamingItsLine) {
  expect_refused("a,b\n\"c,d\ne,f\n", kCsv, "line 2: a quote is never closed");
  expect_refused("\"a\"b,c\n", kCsv, "line 1: a quoted field is followed by text");
}

TEST_F(Table, RefusesARowOfFieldsWithoutEnd) {
  expect_refused(std::string(5000, '\t'), kPlain, "more than 4096 fields");
}

TEST_F(Table, ColumnsAreFoundByNameOrNumber) {
  test::write_bytes(folder_ / "named", "\xEF\xBB\xBFlabel\tsentence\r\n1\tx\r\n");
  const TableReader named(folder_ / "named", {});
  EXPECT_EQ(named.find({"sentence", 0}), 1);
  EXPECT_EQ(named.find({"label", 0}), 0);
  EXPECT_EQ(named.find({"", 1}), 1);
  EXPECT_EQ(named.width(), 2U);
  const auto refused = [&](const Column& column, const TableReader& reader,
                           const std::string& message) {
    try {
      reader.find(column);
      FAIL() << message;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  refused({"sentense", 0}, named, "no column 'sentense'; it has label, sentence");
  refused({"", 2}, named, "column 2 was asked for, there are 2");
  const TableReader bare(folder_ / "named", kPlain);
  refused({"label", 0}, bare, "the file has no header");
}

TEST_F(Table, AnEmptyFileHasNoRowsAndNoHeader) {
  EXPECT_TRUE(read("", kPlain).empty());
  expect_refused("\n\n", {}, "is empty, a header was expected");
}

}  // namespace
}  // namespace perceiver::train
