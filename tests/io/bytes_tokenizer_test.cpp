#include "perceiver/io/bytes_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"

// Expected ids were printed by transformers 5.23's PerceiverTokenizer.
namespace perceiver::io {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int64_t>;

Ids ids(std::string_view text, EncodeOptions options = {}) {
  return encode_text(text, options).ids;
}

std::string refusal(std::string_view text, const EncodeOptions& options) {
  try {
    encode_text(text, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    return error.what();
  }
  return "accepted";
}

TEST(BytesTokenizer, AddsClsAndSepAroundBytesPlusSix) {
  EXPECT_THAT(ids("ab"), ElementsAre(4, 103, 104, 5));
  EXPECT_THAT(ids("\xC3\xA9[BOS][EOS]"), ElementsAre(4, 201, 175, 1, 2, 5));
  EXPECT_THAT(ids(""), ElementsAre(4, 5));
  EXPECT_THAT(ids("a b", {.add_special_tokens = false}), ElementsAre(103, 38, 104));
}

TEST(BytesTokenizer, LiteralSpecialTokensKeepTheSpacesAroundThem) {
  EXPECT_THAT(ids("a [MASK] b"), ElementsAre(4, 103, 38, 3, 38, 104, 5));
  EXPECT_THAT(ids("[CLS]x[SEP] y"), ElementsAre(4, 4, 126, 5, 38, 127, 5));
  EXPECT_THAT(ids(" [PAD] "), ElementsAre(4, 38, 0, 38, 5));
}

TEST(BytesTokenizer, NestedAndUnfinishedLiteralsAreBytesUpToTheInnermost) {
  EXPECT_THAT(ids("[[MASK]]"), ElementsAre(4, 97, 3, 99, 5));
  EXPECT_THAT(ids("[MASK[MASK]"), ElementsAre(4, 97, 83, 71, 89, 81, 3, 5));
  EXPECT_THAT(ids("[mask]"), ElementsAre(4, 97, 115, 103, 121, 113, 99, 5));
  EXPECT_THAT(ids("[MASK", {.add_special_tokens = false}), ElementsAre(97, 83, 71, 89, 81));
}

TEST(BytesTokenizer, LiteralsAreBytesWhenNotAskedFor) {
  EXPECT_EQ(ids("[PAD]", {.add_special_tokens = false, .read_special_tokens = false}).size(), 5u);
}

TEST(BytesTokenizer, PairsArePaddedAndMasked) {
  const EncodedText pair = encode_text_pair("ab", "c", {.max_length = 10, .pad = true});
  EXPECT_THAT(pair.ids, ElementsAre(4, 103, 104, 5, 105, 5, 0, 0, 0, 0));
  EXPECT_THAT(pair.mask, ElementsAre(1, 1, 1, 1, 1, 1, 0, 0, 0, 0));
  EXPECT_THAT(encode_text_pair("", "a").ids, ElementsAre(4, 5, 103, 5));
}

TEST(BytesTokenizer, RefusesLongTextNamingBothLengths) {
  EXPECT_THAT(refusal("abcdef", {.max_length = 7}),
              AllOf(HasSubstr("8 tokens"), HasSubstr("maximum is 7")));
  EXPECT_EQ(refusal("abcde", {.max_length = 7}), "accepted");
  EXPECT_THAT(refusal(std::string(2047, 'x'), {}), HasSubstr("2049"));
  EXPECT_EQ(refusal(std::string(3000, 'x'), {.max_length = 0}), "accepted");
  EXPECT_THAT(refusal("a", {.max_length = -1}), HasSubstr("max_length"));
  EXPECT_THAT(refusal("a", {.max_length = 0, .pad = true}), HasSubstr("max_length"));
  EXPECT_THAT(refusal("abc", {.max_length = 1, .truncate = true}), HasSubstr("special tokens"));
}

TEST(BytesTokenizer, TruncatesAsTransformersDoes) {
  const auto pair = [](std::string_view a, std::string_view b, int64_t length) {
    return encode_text_pair(a, b, {.max_length = length, .truncate = true}).ids;
  };
  EXPECT_THAT(ids("abcdefgh", {.max_length = 5, .truncate = true}),
              ElementsAre(4, 103, 104, 105, 5));
  EXPECT_THAT(pair("abcdef", "xyz", 8), ElementsAre(4, 103, 104, 105, 5, 126, 127, 5));
  EXPECT_THAT(pair("abcdef", "uvwxyz", 9), ElementsAre(4, 103, 104, 105, 5, 123, 124, 125, 5));
  EXPECT_THAT(pair("abcdef", "uvwxyz", 10),
              ElementsAre(4, 103, 104, 105, 106, 5, 123, 124, 125, 5));
  EXPECT_THAT(pair("abcdefgh", "xyz", 9), ElementsAre(4, 103, 104, 105, 5, 126, 127, 128, 5));
}

TEST(BytesTokenizer, SaysWhichTokenHoldsWhichByte) {
  const EncodedText text = encode_text("ab[MASK]c");
  EXPECT_EQ(text.position_of_byte(0), 1);
  EXPECT_EQ(text.position_of_byte(2), 3);
  EXPECT_EQ(text.position_of_byte(7), 3);
  EXPECT_EQ(text.position_of_byte(8), 4);
  EXPECT_THROW(text.position_of_byte(9), Error);
  EXPECT_THAT(text.mask_positions(), ElementsAre(3));
  EXPECT_EQ(text.sources[0].text, -1);
  EXPECT_EQ(encode_text_pair("ab", "cd").position_of_byte(1, 1), 5);
}

TEST(BytesTokenizer, DecodesWithNamesOrWithoutSpecialTokens) {
  EXPECT_EQ(decode_text(ids("a [MASK] b")), "[CLS]a [MASK] b[SEP]");
  EXPECT_EQ(decode_text(ids("a [MASK] b"), true), "a  b");
  EXPECT_EQ(decode_text({0, 3, 70}), "[PAD][MASK]@");
  EXPECT_THROW(decode_text({262}), Error);
  EXPECT_THROW(decode_text({-1}), Error);
}

TEST(BytesTokenizer, ReplacesEachIllFormedPartOnceAsPythonDoes) {
  const auto decoded = [](std::string_view bytes) {
    return decode_text(ids(bytes, {.add_special_tokens = false, .read_special_tokens = false}));
  };
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(decoded("\xE2\x82"), mark);
  EXPECT_EQ(decoded("\xF0\x9F\x98"), mark);
  EXPECT_EQ(decoded("\xFF\xFE"), mark + mark);
  EXPECT_EQ(decoded("a\xE2"
                    "b"),
            "a" + mark + "b");
  EXPECT_EQ(decoded("\xED\xA0\x80"), mark + mark + mark);
  EXPECT_EQ(decoded("\xF4\x90\x80\x80"), mark + mark + mark + mark);
  EXPECT_EQ(decoded("\xC0\x80"), mark + mark);
  EXPECT_EQ(decoded("\xE0\x80\x80"), mark + mark + mark);
  EXPECT_EQ(decoded("\xE2\x82\xAC \xF0\x9F\x98\x80"), "\xE2\x82\xAC \xF0\x9F\x98\x80");
}

TEST(BytesTokenizer, NamesSingleTokens) {
  EXPECT_EQ(token_name(3), "[MASK]");
  EXPECT_EQ(token_name(103), "a");
  EXPECT_EQ(token_name(16), "\\x0a");
}

}  // namespace
}  // namespace perceiver::io
