#include "perceiver/base/str.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(Cat, JoinsPrintedParts) {
  EXPECT_EQ(cat("width ", 3, " of ", std::string("x")), "width 3 of x");
}

TEST(ShapeString, WritesBrackets) {
  EXPECT_EQ(shape_string({}), "[]");
  EXPECT_EQ(shape_string({2, -1}), "[2, -1]");
}

TEST(Printable, KeepsPlainAndNonAsciiText) {
  EXPECT_EQ(printable("encoder/~/w"), "encoder/~/w");
  const std::string text = "gr\xC3\xBC\xC3\x9F \xF0\x9F\x99\x82";
  EXPECT_EQ(printable(text), text);
}

TEST(Printable, EscapesWhatWouldBreakTheLineOrTheTerminal) {
  EXPECT_EQ(printable("a\nb\tc\r"), "a\\nb\\tc\\r");
  EXPECT_EQ(printable(std::string_view("\x1b[31m\0", 6)), "\\x1b[31m\\x00");
  EXPECT_EQ(printable("\xC2\x9B"), "\\u009b");  // C1 control
  EXPECT_EQ(printable("\xE2\x80\xAE"
                      "abc"),
            "\\u202eabc");  // right-to-left override
}

TEST(Printable, EscapesInvalidUtf8ByteByByte) {
  EXPECT_EQ(printable("\xFF"), "\\xff");
  EXPECT_EQ(printable("\xC0\xAF"), "\\xc0\\xaf");           // overlong
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");  // surrogate
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(printable("a\xE2\x82"), "a\\xe2\\x82");  // cut short
}

TEST(Printable, CutsLongTextBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcdef...");
  EXPECT_EQ(printable("abc\xC3\xBC", 4), "abc...");
}

}  // namespace
}  // namespace perceiver
