#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/matrix.h"
#include "runtime/pages.h"

namespace perceiver::runtime {

/// Scratch memory of one engine: taken in stack order, kept between calls, so that the second and
/// later forwards of a shape allocate nothing. Growing never moves what was handed out.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// 64-byte aligned, not initialised. Valid until the enclosing Scope ends.
  /// @throws Error(kIo) if memory is refused
  float* take(int64_t count);
  /// Rows padded to whole cache lines, and never a power of two of them apart: rows that all fall
  /// into one cache set are several times slower to walk down.
  Matrix matrix(int64_t rows, int64_t columns);
  /// Rows without gaps: for operands of Linear alone, which would copy others.
  Matrix dense(int64_t rows, int64_t columns);
  /// Columns in parts of `width`, each part's rows as matrix() or as dense() has them.
  InParts<Matrix> parts(int64_t rows, int64_t columns, int64_t width);
  InParts<Matrix> dense_parts(int64_t rows, int64_t columns, int64_t width);
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
    int64_t used_, taken_;
  };

  /// Largest number of bytes handed out at once so far.
  int64_t peak_bytes() const { return peak_; }
  /// Bytes held from the system.
  int64_t held_bytes() const;

 private:
  struct Chunk {
    Pages pages;
    int64_t used = 0;
  };
  void give_back(size_t chunk, int64_t used, int64_t taken);

  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  int64_t taken_ = 0, peak_ = 0;
};

}  // namespace perceiver::runtime
