#pragma once

#include <algorithm>
#include <cstdint>

namespace perceiver::runtime {

/// Tokens attended to at once: `runs` runs of `columns` neighbours, one every `pitch` tokens. On a
/// grid that is a rectangle; its tables and sums stay in the cache, those of whole rows may not.
struct TokenWindow {
  int64_t first = 0;
  int64_t runs = 1;
  int64_t columns = 0;
  int64_t pitch = 0;  ///< at least `columns`

  int64_t count() const { return runs * columns; }
  int64_t begin(int64_t run) const { return first + run * pitch; }
  int64_t token(int64_t i) const { return begin(i / columns) + i % columns; }
  /// Whether its tokens are neighbours all.
  bool is_range() const { return runs == 1 || columns == pitch; }
};

/// Tokens [begin, end).
constexpr TokenWindow neighbours(int64_t begin, int64_t end) {
  return {begin, 1, end - begin, end - begin};
}

/// How rows of `width` tokens are cut.
struct Cut {
  int64_t rows;     ///< of a window
  int64_t columns;  ///< of all windows but a row's last
};

struct CutLimits {
  int64_t window;  ///< tokens of a window, at most
  int64_t band;    ///< tokens of whole rows begun before the first of them is done, about at most
};

/// @param rows, width  of what is to be cut, at least 1
Cut cut_rows(int64_t rows, int64_t width, const CutLimits& limits);

/// Cuts tokens [begin, end) into windows, bands of rows from the first to the last, a band from its
/// first column to its last; whole rows where `begin` and `end` leave any.
/// @param origin  a row begins at every token t with (origin + t) % width == 0
/// @param use     called with each TokenWindow
/// @param done    called with (first, last) when all tokens before `last` have been used
template <typename Use, typename Done>
void for_windows(int64_t begin, int64_t end, int64_t origin, int64_t width, const CutLimits& limits,
                 const Use& use, const Done& done) {
  const auto range = [&](int64_t from, int64_t to) {
    for (int64_t first = from; first < to; first += limits.window) {
      const int64_t last = std::min(first + limits.window, to);
      use(neighbours(first, last));
      done(first, last);
    }
  };
  const int64_t head = std::min(end, begin + (width - (origin + begin) % width) % width);
  range(begin, head);
  const int64_t rows = (end - head) / width;
  if (rows > 0) {
    const Cut cut = cut_rows(rows, width, limits);
    for (int64_t row = 0; row < rows; row += cut.rows) {
      const int64_t runs = std::min(cut.rows, rows - row), first = head + row * width;
      for (int64_t column = 0; column < width; column += cut.columns) {
        use(TokenWindow{first + column, runs, std::min(cut.columns, width - column), width});
      }
      done(first, first + runs * width);
    }
  }
  range(head + rows * width, end);
}

}  // namespace perceiver::runtime
