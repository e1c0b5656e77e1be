#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "nn/plans.h"
#include "nn/stems.h"
#include "perceiver/nn/model.h"

// Output queries and what follows a decoded row.

namespace perceiver::nn {

/// The queries of one output, made block by block so that a huge output never needs them all at
/// once.
class QueryRows {
 public:
  /// @param tokens  the inputs, for queries made of them
  /// @throws Error(kArgument), Error(kShape) naming the output and both values
  QueryRows(const StemContext& context, const OutputSpec& output, const TokenArray& tokens,
            const TensorRequest& request, int64_t batch);

  int64_t count() const { return count_; }
  /// Whether every row of the output grid is asked for, in order.
  bool whole() const { return whole_; }
  /// Grid of the rows when whole: the output's, or the tokens' when queries are inputs.
  const std::vector<int64_t>& grid() const { return grid_; }
  /// [B, end - begin, E], padding included.
  at::Tensor block(int64_t begin, int64_t end) const;
  /// [B, end - begin] bool, or undefined.
  at::Tensor mask(int64_t begin, int64_t end) const;
  /// All rows as content, separable positions and constant channels; nothing when they are not
  /// made of these or are not neighbours on their grid.
  std::optional<AbsorbedRows> factored() const;

 private:
  void find_rows(const TokenArray& tokens, const TensorRequest& request);
  void find_source(const TokenArray& tokens, const TensorRequest& request);
  at::Tensor callers_rows(const TensorRequest& request) const;
  /// Grid index of the first row when every row follows the one before it, else -1.
  int64_t first_of_run() const;
  /// Grid indices of asked rows, on the model's device: [end - begin].
  at::Tensor indices(int64_t begin, int64_t end) const;
  /// Rows of a [n, w] or [B, n, w] tensor at `indices`.
  at::Tensor select_rows(const at::Tensor& rows, int64_t begin, int64_t end) const;
  at::Tensor positions(int64_t begin, int64_t end) const;
  /// Of the positions' tables among those that are kept.
  std::string grid_name() const;
  /// Rows that are an input's dense tokens; of asked points those alone are made.
  at::Tensor input_rows(int64_t begin, int64_t end) const;

  const StemContext& context_;
  const OutputSpec& output_;
  int64_t batch_;
  int64_t count_ = 0;
  bool whole_ = true;
  std::vector<int64_t> grid_;
  std::vector<int64_t> points_;  ///< when not whole
  at::Tensor device_points_;     ///< the same, brought over once
  /// Learned table, input rows, caller's queries or coordinates; the dense rows of a whole input
  /// are made of `tokens_` when first asked for.
  mutable at::Tensor source_;
  std::optional<TokenSegment> tokens_;  ///< kInputTokens
  at::Tensor content_;                  ///< input content to put in front (concat_input)
  at::Tensor mask_;
  std::optional<tokens::SeparablePositions> fourier_;
};

/// The decoder's own final linear.
AttentionModule::LastMap final_map(const StemContext& context);

/// Per-row head: [B, rows, c] -> [B, rows, c']. Heads that need the grid come after.
at::Tensor head_rows(const StemContext& context, const OutputSpec& output, const at::Tensor& rows);

/// Grid heads, divisor and the shape the output promises.
/// @param rows  [B, O, c]
at::Tensor shape_output(const StemContext& context, const OutputSpec& output,
                        const QueryRows& queries, at::Tensor rows);

}  // namespace perceiver::nn
