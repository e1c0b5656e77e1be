#pragma once

#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "io/file_bytes.h"
#include "perceiver/base/array.h"

namespace perceiver::io::test {

/// `text` as a file called "file" whose bytes start 8-byte aligned, as a mapped file does.
inline FileBytes bytes_of(const std::string& text) {
  auto owner =
      std::make_shared<Array>(Array::zeros(DType::kU8, {static_cast<int64_t>(text.size())}));
  if (!text.empty()) {
    std::memcpy(owner->mutable_bytes(), text.data(), text.size());
  }
  const std::string_view bytes(reinterpret_cast<const char*>(owner->bytes()), text.size());
  return {bytes, std::move(owner), "file"};
}

/// The message of the Error(`code`) that `call` must throw.
template <typename Call>
std::string refusal(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// Little-endian bytes of an integer.
template <typename T>
std::string little(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// Same names, dtypes, shapes and bytes.
inline void expect_same(const ArrayMap& actual, const ArrayMap& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, wanted] : expected) {
    ASSERT_EQ(actual.count(name), 1u) << name;
    const Array& got = actual.at(name);
    EXPECT_STREQ(dtype_name(got.dtype()), dtype_name(wanted.dtype())) << name;
    ASSERT_EQ(got.shape(), wanted.shape()) << name;
    if (wanted.nbytes() > 0) {
      const auto size = static_cast<size_t>(wanted.nbytes());
      EXPECT_EQ(std::memcmp(got.bytes(), wanted.bytes(), size), 0) << name;
    }
  }
}

}  // namespace perceiver::io::test
