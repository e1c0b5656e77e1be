#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Free text stored beside the tensors, as `__metadata__` of the file.
using Metadata = std::map<std::string, std::string>;

/// One entry of a safetensors header.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< of its first byte, from the start of the file
  uint64_t bytes = 0;
};

/// Reads a safetensors file. Arrays are views of the mapped file (copied only where the file left
/// them unaligned), so reading is lazy and costs no memory of its own.
/// @throws Error(kIo); Error(kFormat) for whatever the format forbids: a header that is no strict
///   JSON or larger than 100 MB, offsets out of range, overlapping or leaving gaps, a size that
///   disagrees with the shape; Error(kUnsupported) for 8-bit floats and other dtypes `DType` lacks
ArrayMap read_safetensors(const std::filesystem::path& path, Metadata* metadata = nullptr);

/// Reads the header alone: every tensor in file order. @throws as read_safetensors
std::vector<TensorInfo> list_safetensors(const std::filesystem::path& path,
                                         Metadata* metadata = nullptr);

/// Writes a safetensors file, whole or not at all. Tensors are ordered by falling dtype size and
/// then by name, so each one is aligned; equal arguments give equal bytes.
/// @throws Error(kIo); Error(kArgument) for an undefined array or a name that is not UTF-8
void write_safetensors(const std::filesystem::path& path, const ArrayMap& arrays,
                       const Metadata& metadata = {});

}  // namespace perceiver::io
