#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::io {

/// The bytes of a whole file: what every checkpoint reader here starts from, so that tests and
/// fuzzers need no files.
struct FileBytes {
  std::string_view bytes;
  std::shared_ptr<const void> owner;  ///< keeps `bytes` alive; arrays may keep it too
  std::string where;                  ///< what messages call the file

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kFormat, where + ": " + why);
  }
  [[noreturn]] void unsupported(const std::string& why) const {
    throw Error(ErrorCode::kUnsupported, where + ": " + why);
  }
};

inline FileBytes map_file(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file->data()), file->size());
  return {bytes, std::move(file), printable(path.native(), 1024)};
}

/// How tensors are called in messages: `tensor "encoder.weight"`.
inline std::string tensor_named(std::string_view name) {
  return cat("tensor \"", printable(name), "\"");
}

/// A `bool` may only be 0 or 1; any other byte in memory is undefined behaviour for who reads it.
inline bool are_bools(const std::byte* bytes, int64_t count) {
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    good = good && static_cast<unsigned char>(bytes[i]) <= 1;
  }
  return good;
}

}  // namespace perceiver::io
