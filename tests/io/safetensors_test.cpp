#include "perceiver/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "io/safetensors_format.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

namespace fs = std::filesystem;
using test::bytes_of;
using test::expect_same;
using test::little;
using test::refusal;
using ::testing::HasSubstr;

std::string file_with(const std::string& header, const std::string& data = "") {
  return little<uint64_t>(header.size()) + header + data;
}

ArrayMap parse(const std::string& bytes) {
  return read_safetensors(bytes_of(bytes), nullptr);
}

std::string refused(const std::string& header, const std::string& data = "",
                    ErrorCode code = ErrorCode::kFormat) {
  return refusal(code, [&] { parse(file_with(header, data)); });
}

// The entry of a tensor "a" of four bytes, with one part replaced.
std::string entry(const std::string& dtype = "\"F32\"", const std::string& shape = "[1]",
                  const std::string& offsets = "[0,4]") {
  return "{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}}";
}

class SafetensorsFile : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove(path_); }
  fs::path path_ =
      fs::path(::testing::TempDir()) /
      (std::string("perceiver_") + ::testing::UnitTest::GetInstance()->current_test_info()->name() +
       ".safetensors");
};

TEST_F(SafetensorsFile, RoundTripsEveryDtypeShapeAndName) {
  ArrayMap arrays;
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    arrays[dtype_name(dtype)] = Array::of<float>({3}, {0, 1, 1}).to(dtype);
  }
  arrays["scalar"] = Array::of<int64_t>({}, {-7});
  arrays["empty"] = Array::zeros(DType::kF32, {0, 5});
  arrays["quote \" \n gr\xC3\xBC\xC3\x9F"] = Array::of<uint8_t>({1}, {9});
  const Metadata metadata = {{"format", "pt"}, {"note", "a\"b"}};
  write_safetensors(path_, arrays, metadata);
  Metadata read_back;
  expect_same(read_safetensors(path_, &read_back), arrays);
  EXPECT_EQ(read_back, metadata);
}

TEST_F(SafetensorsFile, WritesAnEmptyMap) {
  write_safetensors(path_, {});
  EXPECT_TRUE(read_safetensors(path_).empty());
}

TEST_F(SafetensorsFile, WritesAlignedHeadersAndTensors) {
  write_safetensors(path_, {{"a", Array::of<uint8_t>({1}, {1})},
                            {"b", Array::of<double>({1}, {2})},
                            {"c", Array::of<int16_t>({1}, {3})}});
  const std::vector<TensorInfo> infos = list_safetensors(path_);
  ASSERT_EQ(infos.size(), 3u);
  EXPECT_EQ(infos[0].name, "b");
  EXPECT_EQ(infos[1].name, "c");
  EXPECT_EQ(infos[2].name, "a");
  EXPECT_EQ(infos[0].offset % 8, 0u);
  EXPECT_EQ(infos[1].offset % 2, 0u);
}

TEST_F(SafetensorsFile, ReadingKeepsTheFileMapped) {
  write_safetensors(path_, {{"a", Array::of<float>({1}, {5})}});
  const ArrayMap arrays = read_safetensors(path_);
  write_safetensors(path_, {{"a", Array::of<float>({1}, {6})}});
  EXPECT_EQ(arrays.at("a").data<float>()[0], 5.0F);
}

TEST_F(SafetensorsFile, WriterRefusesWhatNoReaderWouldTake) {
  refusal(ErrorCode::kArgument, [&] { write_safetensors(path_, {{"a", Array()}}); });
  const Array one = Array::of<float>({1}, {1});
  refusal(ErrorCode::kArgument, [&] { write_safetensors(path_, {{"__metadata__", one}}); });
  refusal(ErrorCode::kArgument, [&] { write_safetensors(path_, {{"\xFF", one}}); });
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(SafetensorsFile, ListNeedsNoMoreThanTheHeader) {
  write_safetensors(path_, {{"a", Array::of<float>({2, 1}, {5, 6})}}, {{"k", "v"}});
  Metadata metadata;
  const std::vector<TensorInfo> infos = list_safetensors(path_, &metadata);
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(infos[0].bytes, 8u);
  EXPECT_EQ(metadata.at("k"), "v");
}

TEST(Safetensors, CopiesTensorsTheFileLeavesUnaligned) {
  // 1 + 4 bytes of data; the header's length makes the F32 start at an odd address.
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  const ArrayMap arrays = parse(file_with(header, "\x07" + little(2.5F)));
  EXPECT_EQ(arrays.at("b").data<uint8_t>()[0], 7);
  EXPECT_EQ(arrays.at("f").data<float>()[0], 2.5F);
}

TEST(Safetensors, AcceptsTrailingSpacesOfTheHeader) {
  EXPECT_EQ(parse(file_with(entry() + "   ", little(1.0F))).size(), 1u);
}

TEST(Safetensors, RefusesShortAndTruncatedFiles) {
  const std::string good = file_with(entry(), little(1.0F));
  for (size_t size = 0; size < good.size(); ++size) {
    refusal(ErrorCode::kFormat, [&] { parse(good.substr(0, size)); });
  }
  EXPECT_THAT(refused(entry(), "abc"), HasSubstr("truncated"));
}

TEST(Safetensors, RefusesHugeHeadersWithoutReadingThem) {
  const auto message = [](uint64_t length) {
    return refusal(ErrorCode::kFormat, [&] { parse(little(length) + "{}"); });
  };
  EXPECT_THAT(message(100'000'001), HasSubstr("over the limit"));
  EXPECT_THAT(message(~uint64_t{0}), HasSubstr("over the limit"));
  EXPECT_THAT(message(3), HasSubstr("only 2 follow"));
}

TEST(Safetensors, RefusesWhatIsNotTheHeaderGrammar) {
  for (const char* header :
       {"", " {}", "[]", "{", "{}x", "null", "{\"a\":1}", "{\"a\":[]}", "{\"a\":\"x\"}",
        "{\"a\":{}}", "{\"__metadata__\":{\"a\":1}}", "{\"__metadata__\":[]}",
        "{\"__metadata__\":{\"a\":{}}}", "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"}) {
    refused(header);
  }
}

TEST(Safetensors, RefusesEntriesThatAreNotTensors) {
  const std::string data = little(1.0F);
  for (const std::string& header :
       {entry("1"), entry("null"), entry("[\"F32\"]"), entry("\"\""), entry("\"f32\""),
        entry("\"F32\"", "1"), entry("\"F32\"", "[1.0]"), entry("\"F32\"", "[-1]"),
        entry("\"F32\"", "[[1]]"), entry("\"F32\"", "[\"1\"]"), entry("\"F32\"", "[{}]"),
        entry("\"F32\"", "[true]"), entry("\"F32\"", "[1]", "[0]"),
        entry("\"F32\"", "[1]", "[0,4,4]"), entry("\"F32\"", "[1]", "4"),
        entry("\"F32\"", "[1]", "[0,4],\"more\":1")}) {
    refused(header, data);
  }
}

TEST(Safetensors, RefusesMissingAndRepeatedKeysAndNames) {
  const std::string data = little(1.0F);
  EXPECT_THAT(refused(R"({"a":{"dtype":"F32","shape":[1]}})", data), HasSubstr("lacks"));
  EXPECT_THAT(refused(entry("\"F32\",\"dtype\":\"F32\""), data), HasSubstr("twice"));
  const std::string one = entry().substr(0, entry().size() - 1);
  EXPECT_THAT(refused(one + "," + entry().substr(1), data), HasSubstr("\"a\": appears twice"));
}

TEST(Safetensors, RefusesSizesThatDisagreeWithTheShape) {
  const std::string data(8, '\0');
  EXPECT_THAT(refused(entry("\"F32\"", "[3]", "[0,8]"), data), HasSubstr("[3]"));
  refused(entry("\"F64\"", "[2]", "[0,8]"), data);
  refused(entry("\"F32\"", "[0]", "[0,8]"), data);
}

TEST(Safetensors, RefusesShapesThatOverflow) {
  refused(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]"));
  refused(entry("\"F64\"", "[2305843009213693952]", "[0,0]"));
  refused(entry("\"U8\"", "[9223372036854775808]", "[0,0]"));
  refused(entry("\"U8\"", "[18446744073709551616]", "[0,0]"));
  std::string many = "[1";
  for (int i = 0; i < 64; ++i) {
    many += ",1";
  }
  refused(entry("\"F32\"", many + "]"), little(1.0F));
}

TEST(Safetensors, RefusesOffsetsOutOfRangeOverlapsAndHoles) {
  const std::string data(8, '\0');
  refused(entry("\"F32\"", "[1]", "[4,0]"), data);
  refused(entry("\"F32\"", "[1]", "[18446744073709551612,0]"), data);
  refused(entry("\"F32\"", "[1]", "[8,12]"), data);
  EXPECT_THAT(refused(entry(), data), HasSubstr("the file has 8"));  // data left over
  EXPECT_THAT(refused(entry("\"F32\"", "[1]", "[4,8]"), data), HasSubstr("starts at data byte 4"));
  const std::string overlap = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})";
  EXPECT_THAT(refused(overlap, std::string(6, '\0')), HasSubstr("tensor \"b\""));
}

TEST(Safetensors, NamesTensorsOfForeignDtypes) {
  for (const char* dtype : {"F8_E4M3", "F8_E5M2", "C64", "F4"}) {
    const std::string quoted = "\"" + std::string(dtype) + "\"";
    EXPECT_THAT(refused(entry(quoted), little(1.0F), ErrorCode::kUnsupported),
                HasSubstr("tensor \"a\" has dtype \"" + std::string(dtype)));
  }
}

TEST(Safetensors, RefusesBoolsThatAreNeitherZeroNorOne) {
  EXPECT_NO_THROW(parse(file_with(entry("\"BOOL\"", "[4]"), std::string("\0\1\1\0", 4))));
  refused(entry("\"BOOL\"", "[4]"), std::string("\0\1\2\0", 4));
}

TEST(Safetensors, EscapesHostileNamesInMessages) {
  const std::string header = R"({"\u001b[31m\n":{"dtype":"X","shape":[],"data_offsets":[0,0]}})";
  EXPECT_THAT(refused(header), HasSubstr("tensor \"\\x1b[31m\\n\""));
}

TEST(Safetensors, ReadsFilesOfTheReferenceWriter) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/transformers");
  const ArrayMap half = read_safetensors(folder / "multimodal" / "model.safetensors");
  EXPECT_GT(half.size(), 50u);
  EXPECT_EQ(half.begin()->second.dtype(), DType::kF16);
  Metadata metadata;
  const ArrayMap brain = read_safetensors(folder / "optical_flow" / "model.safetensors", &metadata);
  EXPECT_EQ(brain.begin()->second.dtype(), DType::kBF16);
  EXPECT_EQ(metadata.at("format"), "pt");
}

}  // namespace
}  // namespace perceiver::io
