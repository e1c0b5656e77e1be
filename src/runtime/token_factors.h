#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/kernels/attend.h"
#include "runtime/matrix.h"
#include "runtime/token_source.h"
#include "runtime/token_window.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

/// The parts of a source whose rows are [content | separable positions | constant], and what
/// LayerNorm needs of them. With m, s the mean and the centred sum of squares of each part,
///
///   C mu = sum over parts of width * m,   C variance = sum over parts of s + width * (m - mu)^2,
///
/// sums of positive terms only: the statistics stay accurate however many position channels there
/// are and wherever the content lies. Content is measured row by row, the axes once.
class TokenFactors {
 public:
  /// Whether the factored plan can take this source: separable, on at most kMaxGridAxes axes, and
  /// any constant channels have an axis to go with.
  static bool applies(const TokenSource& source);

  /// Copies what it needs. @param source  one that applies()
  explicit TokenFactors(const TokenSource& source);

  /// Whether `source` would make the same object.
  bool fits(const TokenSource& source) const;

  int num_axes() const { return static_cast<int>(axes_.size()); }
  int64_t extent(int axis) const { return axes_[static_cast<size_t>(axis)].extent; }
  /// Sum of the extents.
  int64_t extents() const;
  int64_t content_channels() const { return content_; }
  int64_t channels() const { return channels_; }

  /// 1 / sqrt(variance + eps) of the window's rows of the grid, whose content is given.
  void scales(ConstMatrix content, const TokenWindow& window, float eps, float* out) const;

  /// Scores of the positions: out(i, c) = sum over the channels k of `axis` of x(i, k) * axis(c,
  /// k), for the axis 0 plus those of the constant channels.
  /// @param x  [n, channels]  @param out [n, extent(axis)]
  void table(int axis, ConstMatrix x, Matrix out, Workspace& workspace) const;
  /// The same, out [extent(axis), n].
  void table_by_coordinate(int axis, ConstMatrix x, Matrix out, Workspace& workspace) const;

  /// The way back: tokens [n, channels] from the weighted sums of content and of each coordinate.
  /// @param sums  [n, content | extent 0 | extent 1 | ...]
  void gather(ConstMatrix sums, Matrix tokens, Workspace& workspace) const;

 private:
  using Extents = std::array<int64_t, kernels::kMaxGridAxes>;
  struct Axis {
    int64_t extent = 0;
    int64_t width = 0;
    Array table;                   ///< [extent, width] F32, the source's own where it can be
    std::vector<int64_t> columns;  ///< of a whole token
    std::vector<double> mean, spread;
  };
  void add_axis(const TokenSource& source, size_t index);
  Extents grid() const;
  /// The channels of `axis` alone, side by side.
  static Matrix columns_of(const Axis& axis, ConstMatrix x, Workspace& workspace);
  static ConstMatrix features(const Axis& axis);
  /// What the constant channels score with row x.
  float constant_score(const float* x) const;

  int64_t content_ = 0, channels_ = 0;
  std::vector<Axis> axes_;
  std::vector<float> constant_;
  double constant_mean_ = 0, constant_spread_ = 0;
};

/// Rows minus their mean: what is multiplied with LayerNorm's result need not subtract the mean of
/// the tokens any more.
void centre_rows(Matrix x);

/// What the positions of one source score against some rows: kept while the source is read in
/// blocks, and its memory by the next call.
struct FactoredTables {
  std::string name;  ///< of the source
  TokenFactors factors;
  std::vector<std::vector<float>> tables;  ///< one for each axis
  bool current = false;                    ///< they are of the present rows
};

/// The entry for `source` under `name`; a new one, not current, where there is none that fits.
FactoredTables& tables_of(std::vector<std::unique_ptr<FactoredTables>>& kept,
                          const std::string& name, const TokenSource& source);

}  // namespace perceiver::runtime
