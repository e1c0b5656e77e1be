#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/linear.h"
#include "runtime/matrix.h"
#include "runtime/token_window.h"

// From raw values to rows of floats, some rows at a time. Nothing here copies an input whole.

namespace perceiver::runtime {

/// Rows worked on at a time where an intermediate is needed: small enough for the cache.
inline constexpr int64_t kStemRows = 1024;
/// Below so many floats a loop is not worth a team of threads.
inline constexpr int64_t kParallelFloats = int64_t{1} << 15;

/// Axes of a grid, at most: specs with more are refused.
inline constexpr size_t kMostAxes = 8;

/// Intermediates of sources. Grown once; sources are read one at a time, by one thread.
struct StemScratch {
  std::vector<float> first, second, third;
  static Matrix matrix(std::vector<float>& memory, int64_t rows, int64_t columns);
};

/// Which rows are wanted: begin, begin + 1, ... of the rows there are, or of a list of them.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  const int64_t* points = nullptr;

  int64_t count() const { return end - begin; }
  int64_t at(int64_t i) const { return points == nullptr ? begin + i : points[begin + i]; }
  RowRange part(int64_t from, int64_t to) const { return {begin + from, begin + to, points}; }
};

/// Where the values of the tokens lie in a raw array [B, ...]: token t of example b is
/// `runs.size()` pieces of `run` neighbouring elements.
struct RawLayout {
  std::vector<int64_t> grid;     ///< tokens
  std::vector<int64_t> steps;    ///< elements from token to token along each axis
  std::vector<int64_t> runs{0};  ///< first element of each run, from the token's own
  int64_t run = 0;
  int64_t first = 0;    ///< element of token 0
  int64_t example = 0;  ///< elements of one example

  int64_t width() const { return static_cast<int64_t>(runs.size()) * run; }
  /// Elements between neighbouring tokens when they are equally spaced single runs, else -1.
  int64_t row_stride() const;
};

/// A window's rows of example b as floats: out [window.count(), layout.width()].
/// @throws Error(kUnsupported) for a dtype that has no float form
void copy_rows(const Array& raw, const RawLayout& layout, int64_t b, const TokenWindow& window,
               Matrix out);
inline void copy_rows(const Array& raw, const RawLayout& layout, int64_t b, int64_t begin,
                      int64_t end, Matrix out) {
  copy_rows(raw, layout, b, neighbours(begin, end), out);
}

/// Token content: raw values, raw values through a linear layer, or embeddings.
class ContentReader {
 public:
  ContentReader() = default;  ///< no content
  ContentReader(Array raw, RawLayout layout);
  /// @param linear  [layout.width()] -> content
  ContentReader(Array raw, RawLayout layout, std::shared_ptr<const Linear> linear);
  /// A linear layer of nothing: every row is its bias.
  ContentReader(const float* bias, int64_t width);
  /// @param ids    [B, T] integers, checked
  /// @param table  [vocabulary, width]
  ContentReader(Array ids, const float* table, int64_t width);

  int64_t channels() const { return channels_; }
  void read(int64_t b, int64_t begin, int64_t end, Matrix out, StemScratch& scratch) const;
  /// The same of a window, where content is raw values. @return false where it is not
  bool read_raw(int64_t b, const TokenWindow& window, Matrix out) const;
  /// TokenSource::forget(), for raw rows that lie one after the other.
  void forget(int64_t b, int64_t begin, int64_t end) const;

 private:
  void read_linear(int64_t b, int64_t begin, int64_t end, Matrix out, StemScratch& scratch) const;
  void read_embedding(int64_t b, int64_t begin, int64_t end, Matrix out) const;

  int64_t channels_ = 0;
  Array raw_;
  RawLayout layout_;
  std::shared_ptr<const Linear> linear_;
  const float* table_ = nullptr;  ///< embedding, or the bias
  bool is_bias_ = false;
};

/// Flags as bytes, nonzero = set; shares the memory of one-byte dtypes.
Array as_flags(const Array& given);

/// Smallest and largest of an integer array that is not empty.
struct IdRange {
  int64_t smallest = 0;
  int64_t largest = 0;
};
IdRange id_range(const Array& ids);

/// Calls body(from, to) for pieces of `count` rows of `width` floats, on the threads.
template <typename Body>
void for_pieces(int64_t count, int64_t width, const Body& body) {
  constexpr int64_t kPiece = 128;
  const int64_t pieces = (count + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (count * width >= kParallelFloats)
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t from = piece * kPiece;
    body(from, from + kPiece < count ? from + kPiece : count);
  }
}

/// Copies one row of `width` floats to every row of `out`.
void fill_rows(const float* row, Matrix out);

}  // namespace perceiver::runtime
