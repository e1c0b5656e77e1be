#pragma once

#include <cstdint>

#include "runtime/matrix.h"

namespace perceiver::runtime {

class Workspace;

/// Columns [from, from + width) of a part are columns [to, to + width) of the whole.
struct ColumnPiece {
  int64_t from, to, width;
};

/// Softmax-weighted means over tokens that arrive in parts, where a part may reach some columns
/// alone: adding one costs what it reaches, not the whole width.
///
/// Sums are kept relative to a reference per row, the log-sum-exp of an earlier part; only a part
/// that outweighs it by far makes the whole row be rescaled.
class RunningMean {
 public:
  /// Nothing yet. @param workspace  lends the memory for as long as this lives
  RunningMean(int64_t rows, int64_t width, Workspace& workspace);

  /// @param means, lse  of the part's rows; columns that no piece names count as 0. A row with an
  ///                    lse of -inf counts for nothing.
  void add(ConstMatrix means, const float* lse, const ColumnPiece* pieces, int64_t num_pieces);

  /// The means, [rows, width], zero in rows without a token; once, after the last part.
  Matrix finish();
  /// Log-sum-exps of the rows, after finish().
  const float* lse() const { return lse_; }

 private:
  Matrix sums_;
  float* lse_;  ///< the references until finish()
  double* weight_;
};

}  // namespace perceiver::runtime
