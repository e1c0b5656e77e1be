#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "io/file_bytes.h"

namespace perceiver::io {

/// Hands fuzzed bytes to a reader as a file. An Error is the right answer to a bad file; any other
/// exception, crash or sanitizer report is a finding.
template <typename Read>
int fuzz_reader(const uint8_t* data, size_t size, const Read& read) {
  auto owner = std::make_shared<Array>(Array::zeros(DType::kU8, {static_cast<int64_t>(size)}));
  if (size > 0) {
    std::memcpy(owner->mutable_bytes(), data, size);
  }
  const std::string_view bytes(reinterpret_cast<const char*>(owner->bytes()), size);
  try {
    read(FileBytes{bytes, owner, "fuzzed"});
  } catch (const Error&) {
  }
  return 0;
}

}  // namespace perceiver::io
