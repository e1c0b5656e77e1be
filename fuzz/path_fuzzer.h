#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <unistd.h>

#include "perceiver/base/error.h"

namespace perceiver::train {

/// A folder of this process that goes when it ends well.
class FuzzFolder {
 public:
  FuzzFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "fuzz_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~FuzzFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Hands fuzzed bytes to a reader that opens its file itself. An Error is the right answer to a bad
/// file; any other exception, crash or sanitizer report is a finding.
/// @param names  what the file is called, one after the other: endings may tell formats
template <typename Read>
int fuzz_path(const uint8_t* data, size_t size, std::initializer_list<const char*> names,
              const Read& read) {
  static const FuzzFolder folder;
  for (const char* name : names) {
    const std::filesystem::path path = folder.path() / name;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    try {
      read(path);
    } catch (const Error&) {
    }
  }
  return 0;
}

}  // namespace perceiver::train
