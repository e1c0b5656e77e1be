#include "runtime/token_window.h"

#include "runtime/pages.h"

namespace perceiver::runtime {
namespace {

/// Rows up to so long are not cut: for every query of a thread, 128 or so, a table and a sum of
/// each column are at hand.
constexpr int64_t kUncut = 320;
constexpr int64_t kColumns = 256;
/// What is done once for a window is then little against what is done for its tokens.
constexpr int64_t kFewestTokens = 4096;

/// Parts of a row, in whole cache lines.
int64_t balanced(int64_t width, int64_t most) {
  return std::min(width, even_part(width, most, kCacheLine / int64_t{sizeof(float)}));
}

}  // namespace

Cut cut_rows(int64_t rows, int64_t width, const CutLimits& limits) {
  int64_t columns = width <= kUncut ? width : balanced(width, kColumns);
  columns = std::min(columns, limits.window);
  Cut cut{std::clamp<int64_t>(limits.window / columns, 1, rows), columns};
  if (columns == width) {
    return cut;
  }
  cut.rows = std::clamp<int64_t>(limits.band / width, 1, cut.rows);
  const int64_t fewest = std::min(kFewestTokens, limits.window);
  if (cut.rows * columns < fewest) {
    cut.columns = std::min(balanced(width, fewest / cut.rows), limits.window);
  }
  return cut;
}

}  // namespace perceiver::runtime
