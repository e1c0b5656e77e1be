#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/kernels/attend.h"

// Attention calls for tests, made from the lines of tests/shapes/attend.txt.

namespace perceiver::kernels {

/// One line of the shape file. Words:
///   batch, heads, q, k, qk, v   the shape (batch and heads 1 without them)
///   share=q,k,v       which inputs batches and heads share (strides of 0)
///   mask=...          random, shared (random, one for all batches), all, first (of the last
///                     block of 256), last; what is masked is filled with NaN
///   bias=1            a key bias
///   grid=keys:6x10    a grid (queries:, too) of these extents; begin=11 its first token
///   scale=0           no token scale
///   sums=01           which axes' sums are wanted
///   size=100          of queries and keys: scores grow with its square
///   steps=8           every other 512 keys are so many times as long
struct AttendLine {
  std::string text;
  AttendShape shape;
  std::string share, mask, sums = "1111";
  bool bias = false, scale = true;
  float size = 1, steps = 1;
  GridSide side = GridSide::kNone;
  std::vector<int64_t> extents;
  int64_t begin = 0;
};

AttendLine parse_line(const std::string& text);
std::vector<AttendLine> read_lines(const std::string& path);

/// Rows with gaps between them, guarded: gaps and both ends hold a pattern.
class GuardedRows {
 public:
  GuardedRows() = default;
  GuardedRows(int64_t batches, int64_t heads, int64_t rows, int64_t width, bool share);

  Rows<float> rows();
  Rows<const float> inputs() const;
  float& at(int64_t batch, int64_t head, int64_t row, int64_t c);
  float at(int64_t batch, int64_t head, int64_t row, int64_t c) const;
  /// Whether everything outside the rows still is what it was.
  bool intact() const;
  void fill(float value);

  int64_t batches = 0, heads = 0, num_rows = 0, width = 0;

 private:
  int64_t batch_stride_ = 0, head_stride_ = 0, row_stride_ = 0;
  std::vector<float> data_;
  float* start() { return data_.data() + kGuard; }
  static constexpr int64_t kGuard = 32;
};

/// Where a call writes, apart from what it reads: several calls can be compared.
struct AttendResults {
  GuardedRows out, lse, sums[kMaxGridAxes];

  bool intact() const;
  /// Empty if every value is bitwise the same, else the first that is not.
  std::string difference(const AttendResults& other) const;
};

/// The inputs of one line, random but the same at each run.
class AttendCase {
 public:
  explicit AttendCase(const AttendLine& line, uint32_t seed = 1);

  const AttendLine& line() const { return line_; }
  AttendResults make_results() const;
  /// A call that writes to `results`.
  AttendForward<float> call(AttendResults& results) const;
  bool is_valid(int64_t batch, int64_t key) const;

 private:
  AttendLine line_;
  GuardedRows q_, k_, v_, tables_[kMaxGridAxes];
  std::vector<uint8_t> mask_;
  std::vector<float> bias_, scale_;
  int64_t mask_batch_ = 0;

  void make_mask(uint32_t seed);
  void poison_masked();
};

/// What a kernel multiplies: how far its products may be off.
enum class Operands { kFloat32, kBfloat16 };

/// The results of the formulas in double and how far float32 arithmetic may be off, row by row:
/// per row, the scores' rounding errors follow from the lengths and norms of what is summed.
/// @return empty, or the worst value with its place
std::string compare(const AttendCase& attend_case, const AttendResults& expected,
                    const AttendResults& actual, Operands operands = Operands::kFloat32);

}  // namespace perceiver::kernels
