#include "perceiver/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"

namespace perceiver {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string refusal(std::string_view text) {
  try {
    parse_json(text, "config.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(ParseJson, ReadsAllKinds) {
  const Json value = parse_json(R"({"a": [1, -2.5, true, null], "b": {"a": "\u00fc"}})", "x");
  EXPECT_EQ(value["a"][0], 1);
  EXPECT_EQ(value["a"][1], -2.5);
  EXPECT_EQ(value["b"]["a"], "\xC3\xBC");
}

TEST(ParseJson, SameKeyInDifferentObjectsIsFine) {
  EXPECT_NO_THROW(parse_json(R"([{"a": 1}, {"a": 2}, {"b": {"a": 3}, "a": 4}])", "x"));
}

TEST(ParseJson, RefusesRepeatedKeysAndNamesThem) {
  EXPECT_THAT(refusal(R"({"a": {}, "b": 1, "a": 2})"),
              AllOf(StartsWith("config.json: "), HasSubstr("key \"a\" appears twice")));
}

TEST(ParseJson, RefusesDeepNestingBeforeReadingItAll) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "x"));
  EXPECT_THAT(refusal(std::string(65, '[') + std::string(65, ']')), HasSubstr("deeper than 64"));
  EXPECT_THAT(refusal(std::string(1000000, '[')), HasSubstr("at byte 65"));
}

TEST(ParseJson, SyntaxErrorsNameTheByte) {
  EXPECT_THAT(refusal(R"({"a": ?})"), HasSubstr("at byte 7"));
  refusal("");
  refusal("{} x");
  refusal("{\"a\": 1,}");
  refusal("NaN");
  refusal("1e999");
}

TEST(ParseJson, RefusesInvalidUtf8) {
  refusal("\"\xFF\"");
  refusal("\"\xC0\xAF\"");
  refusal("\"\xED\xA0\x80\"");
  refusal(R"("\ud800")");
}

TEST(WriteJson, RoundTripsWithAFinalNewline) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "perceiver_round_trip.json";
  write_json(path, Json{{"b", 0.1}, {"a", {1, 2}}});
  const std::string text = read_file(path, 1000);
  EXPECT_EQ(text.back(), '\n');
  EXPECT_EQ(read_json(path), (Json{{"b", 0.1}, {"a", {1, 2}}}));
  std::filesystem::remove(path);
}

TEST(ReadJson, NamesThePath) {
  try {
    read_json("/no/such.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr("/no/such.json"));
  }
}

}  // namespace
}  // namespace perceiver
