#include "perceiver/io/npy.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "io/npy_format.h"

namespace perceiver::io {
namespace {

using test::bytes_of;
using test::little;
using test::refusal;
using ::testing::HasSubstr;

std::string npy(const std::string& header, const std::string& data = "", char version = 1) {
  const auto length = static_cast<uint32_t>(header.size());
  return std::string("\x93NUMPY") + version + '\0' +
         (version == 1 ? little<uint16_t>(static_cast<uint16_t>(length)) : little(length)) +
         header + data;
}

std::string header(const std::string& descr, const std::string& shape,
                   const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }  \n";
}

template <typename T>
std::string bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string refused(const std::string& file, ErrorCode code = ErrorCode::kFormat) {
  return refusal(code, [&] { read_npy(bytes_of(file)); });
}

TEST(Npy, ReadsEveryVersionAsAViewOfTheFile) {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  for (const char version : {1, 2, 3}) {
    const FileBytes file = bytes_of(npy(
        header("<f4", "(2, 3)") + std::string(version == 1 ? 2 : 0, ' '), bytes(values), version));
    const Array array = read_npy(file);
    EXPECT_EQ(array.shape(), (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.data<float>()[5], 6);
  }
}

TEST(Npy, ReadsEveryKindOfNumber) {
  EXPECT_EQ(read_npy(bytes_of(npy(header("<f8", "(1,)"), bytes<double>({0.5})))).data<double>()[0],
            0.5);
  EXPECT_EQ(
      read_npy(bytes_of(npy(header("<i4", "(2,)"), bytes<int32_t>({7, -8})))).data<int32_t>()[1],
      -8);
  EXPECT_EQ(read_npy(bytes_of(npy(header("<i8", "()"), bytes<int64_t>({9})))).data<int64_t>()[0],
            9);
  EXPECT_EQ(read_npy(bytes_of(npy(header("|u1", "(3,)"), "abc"))).data<uint8_t>()[2], 'c');
  const Array flags = read_npy(bytes_of(npy(header("|b1", "(2,)"), std::string("\0\1", 2))));
  EXPECT_TRUE(flags.data<bool>()[1]);
  EXPECT_EQ(read_npy(bytes_of(npy(header("<f4", "(0, 7)")))).numel(), 0);
}

TEST(Npy, AColumnOrRowHasNoOrder) {
  const std::string data = bytes<float>({1, 2});
  EXPECT_EQ(read_npy(bytes_of(npy(header("<f4", "(2,)", "True"), data))).numel(), 2);
  EXPECT_THAT(
      refused(npy(header("<f4", "(1, 2, 2)", "True"), data + data), ErrorCode::kUnsupported),
      HasSubstr("[1, 2, 2] is column-major"));
}

TEST(Npy, NeverReadsObjectsAndSaysSo) {
  EXPECT_THAT(refused(npy(header("|O", "(1,)"), "x"), ErrorCode::kUnsupported),
              HasSubstr("pickled"));
  EXPECT_THAT(refused(npy(header(">f4", "(1,)"), "abcd"), ErrorCode::kUnsupported),
              HasSubstr("big-endian"));
  EXPECT_THAT(refused(npy(header("<c8", "(1,)"), "abcdefgh"), ErrorCode::kUnsupported),
              HasSubstr("<c8"));
  EXPECT_THAT(
      refused(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd"),
              ErrorCode::kUnsupported),
      HasSubstr("several fields"));
  EXPECT_THAT(refused(npy(header("<f4", "(1,)"), "abcd", 9), ErrorCode::kUnsupported),
              HasSubstr("version 9"));
}

TEST(Npy, RefusesWhatNumpyWouldNotWrite) {
  EXPECT_THAT(refused("PK\3\4"), HasSubstr("not an npy file"));
  EXPECT_THAT(refused(npy(header("<f4", "(3,)"), "abcdefgh")),
              HasSubstr("F32 of shape [3] does not take the 8 bytes"));
  EXPECT_THAT(refused(npy(header("<f8", "(4611686018427387904, 4)"))), HasSubstr("npy"));
  EXPECT_THAT(refused(npy(header("<f4", "(-1,)"))), HasSubstr("shape"));
  EXPECT_THAT(refused(npy(header("|b1", "(1,)"), "\2")), HasSubstr("neither 0 nor 1"));
  EXPECT_THAT(refused(npy("{'descr': '<f4', 'fortran_order': False}")), HasSubstr("missing"));
  EXPECT_THAT(refused(npy("{'descr': '<f4', 'descr': '<f4'}")),
              HasSubstr("unexpected key 'descr'"));
  EXPECT_THAT(refused(npy("{'descr': __import__('os')}")), HasSubstr("expected"));
  EXPECT_THAT(refused(npy("{'descr': '<f4")), HasSubstr("without end"));
  const std::string good = npy(header("<f4", "(1,)"), "abcd");
  for (size_t length = 0; length < good.size(); ++length) {
    refused(good.substr(0, length));
  }
}

TEST(Npy, NamesTheFile) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "perceiver_bad.npy";
  std::ofstream(path, std::ios::binary) << "nothing";
  EXPECT_THAT(refusal(ErrorCode::kFormat, [&] { read_npy(path); }), HasSubstr("perceiver_bad.npy"));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace perceiver::io
