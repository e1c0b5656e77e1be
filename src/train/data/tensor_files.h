#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "perceiver/base/array.h"

namespace perceiver::train {

/// Where the arrays of one part of a data set lie: one safetensors file with all of them, or an npy
/// file each.
struct TensorFilesSpec {
  std::filesystem::path safetensors;
  std::map<std::string, std::filesystem::path> npy;  ///< by array name

  bool empty() const { return safetensors.empty() && npy.empty(); }
};

/// Named arrays whose first axis counts examples. They are views of mapped files: what is not asked
/// for is not read, and the files may be larger than memory.
class TensorFiles {
 public:
  TensorFiles() = default;
  /// @throws what the readers throw
  explicit TensorFiles(const TensorFilesSpec& spec);

  /// @param wanted_by  what asks, for the message: "r.json: data.inputs.sensors"
  /// @throws Error(kArgument) naming the arrays there are; Error(kShape) for one without an axis
  const Array& at(const std::string& array, const std::string& wanted_by) const;
  /// "array 'x' of data/train.safetensors"
  std::string named(const std::string& array) const;

 private:
  ArrayMap arrays_;
  std::map<std::string, std::string> files_;  // printable paths, by array
};

/// Rows `chosen` of the first axis, copied and converted.
Array gather_rows(const Array& array, const std::vector<int64_t>& chosen, DType dtype);

}  // namespace perceiver::train
