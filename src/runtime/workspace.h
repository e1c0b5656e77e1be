#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/matrix.h"

namespace perceiver::runtime {

/// Scratch memory of one engine: taken in stack order, kept between calls, so that the second and
/// later forwards of a shape allocate nothing. Growing never moves what was handed out.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// 64-byte aligned, not initialised. Valid until the enclosing Scope ends.
  float* take(int64_t count);
  /// Rows padded to whole cache lines.
  Matrix matrix(int64_t rows, int64_t columns);
  std::byte* take_bytes(int64_t count);

  /// Gives back, on destruction, all that was taken since its construction.
  class Scope {
   public:
    explicit Scope(Workspace& workspace);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t chunk_;
    int64_t used_;
  };

  /// Largest number of bytes handed out at once so far.
  int64_t peak_bytes() const { return peak_; }

 private:
  struct Chunk {
    std::byte* data;
    int64_t size;
    int64_t used;
  };
  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  int64_t taken_ = 0, peak_ = 0;
};

}  // namespace perceiver::runtime
