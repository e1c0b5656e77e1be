#pragma once

#include "io/file_bytes.h"

namespace perceiver::io {

/// What a pickle may grow to: stride 0 or a reused byte string can describe terabytes in a hundred
/// bytes, yet no honest checkpoint describes much more than it holds.
class ArrayBudget {
 public:
  explicit ArrayBudget(const FileBytes& file)
      : file_(file), left_(kFloor + kFactor * file.bytes.size()) {}

  /// Call before allocating. @throws Error(kFormat) naming `what`
  void charge(uint64_t bytes, const std::string& what) {
    if (bytes > left_) {
      file_.refuse(what + " makes the checkpoint far larger than its file");
    }
    left_ -= bytes;
  }

 private:
  static constexpr uint64_t kFloor = uint64_t{1} << 20;
  static constexpr uint64_t kFactor = 4;

  const FileBytes& file_;
  uint64_t left_;
};

/// Limits of what a checkpoint may name.
constexpr size_t kMaxTensorName = 4096;
constexpr size_t kMaxTensorRank = 64;

/// Adds under a name, which must be new, not too long, and not overflow the map.
inline void add_array(const FileBytes& file, ArrayMap& arrays, std::string name, Array array) {
  constexpr size_t kMaxArrays = size_t{1} << 20;
  if (arrays.size() >= kMaxArrays) {
    file.refuse(cat("more than ", kMaxArrays, " tensors"));
  }
  const auto [position, is_new] = arrays.emplace(std::move(name), std::move(array));
  if (!is_new) {
    file.refuse(tensor_named(position->first) + " appears twice");
  }
}

}  // namespace perceiver::io
