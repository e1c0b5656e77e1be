#include "runtime/encode_blocks.h"

namespace perceiver::runtime {

using kernels::AttendForward;
using kernels::GridSide;

void TextbookForm::fill(int64_t b, const TokenWindow& window, AttendForward<float>& args,
                        Workspace& workspace) const {
  const Matrix both = workspace.dense(window.count(), key_value_.out());
  {
    const Workspace::Scope scope(workspace);
    const int64_t end = window.first + window.count();
    key_value_.apply(normed_rows(source_, b, window.first, end, eps_,
                                 workspace.dense(window.count(), source_.channels())),
                     both);
  }
  const int64_t qk_dim = shape_.qk_channels / shape_.num_heads;
  args.shape.qk_dim = qk_dim;
  args.shape.v_dim = width();
  args.k = {both.data, 0, qk_dim, both.stride};
  args.v = {both.data + shape_.qk_channels, 0, width(), both.stride};
}

void AbsorbedForm::fill(int64_t b, const TokenWindow& window, AttendForward<float>& args,
                        Workspace& workspace) const {
  const int64_t end = window.first + window.count();
  const Matrix tokens = normed_rows(source_, b, window.first, end, eps_,
                                    workspace.matrix(window.count(), source_.channels()));
  args.shape.qk_dim = args.shape.v_dim = tokens.columns;
  args.k = args.v = {tokens.data, 0, 0, tokens.stride};
}

FactoredForm::FactoredForm(TokenSource& source, const FactoredTables& parts,
                           const AttentionShape& shape, int64_t set, int64_t latents,
                           int64_t first_token, float eps)
    : source_(source),
      factors_(parts.factors),
      parts_(parts),
      rows_per_set_(shape.num_heads * latents),
      latents_(latents),
      set_(set),
      first_token_(first_token),
      inner_(parts.factors.num_axes() - 1),
      eps_(eps) {
  while (inner_ > 0 && factors_.extent(inner_) == 1) {
    --inner_;
  }
  for (int axis = 1; axis < inner_; ++axis) {
    plane_ *= factors_.extent(axis);
  }
}

FactoredForm::Range FactoredForm::range(int axis, const TokenWindow& window) const {
  const int64_t first = first_token_ + window.first, row = first / row_tokens();
  if (axis == inner_) {
    return {first % row_tokens(), window.columns};
  }
  if (axis == 0) {
    const int64_t begin = row / plane_;
    return {begin, (row + window.runs - 1) / plane_ + 1 - begin};
  }
  return {0, factors_.extent(axis)};
}

ColumnPieces FactoredForm::reached(const TokenWindow& window) const {
  ColumnPieces reached;
  reached.append(0, factors_.content_channels());
  int64_t offset = factors_.content_channels();
  for (int axis = 0; axis < factors_.num_axes(); ++axis) {
    const Range own = range(axis, window);
    reached.append(offset + own.begin, own.count);
    offset += factors_.extent(axis);
  }
  return reached;
}

void FactoredForm::fill(int64_t b, const TokenWindow& window, AttendForward<float>& args,
                        Workspace& workspace) const {
  const Matrix content = workspace.matrix(window.count(), factors_.content_channels());
  source_.content_of(b, window, content);
  float* scale = workspace.take(window.count());
  TokenWindow on_grid = window;
  on_grid.first += first_token_;
  factors_.scales(content, on_grid, eps_, scale);
  args.shape.qk_dim = args.shape.v_dim = content.columns;
  args.k = args.v = {content.data, 0, 0, content.stride};
  args.grid.side = GridSide::kKeys;
  args.grid.num_axes = factors_.num_axes();
  args.grid.scale = scale;
  // The grid that the window's ranges make begins where its first coordinate of axis 0 does.
  args.grid.begin = on_grid.first / row_tokens() % plane_ * window.columns;
  for (int axis = 0; axis < factors_.num_axes(); ++axis) {
    const int64_t extent = factors_.extent(axis);
    const Range own = range(axis, window);
    args.grid.extents[axis] = own.count;
    args.grid.tables[axis] = {
        parts_.tables[static_cast<size_t>(axis)].data() + set_ * rows_per_set_ * extent + own.begin,
        0, latents_ * extent, extent};
  }
}

void FactoredForm::point_sums(float* row, int64_t queries, int64_t part_width,
                              AttendForward<float>& args) const {
  float* sums = row + factors_.content_channels();
  for (int axis = 0; axis < factors_.num_axes(); ++axis) {
    args.sums[axis] = {sums, 0, queries * part_width, part_width};
    sums += args.grid.extents[axis];
  }
}

ConstMatrix FactoredForm::to_state(Matrix rows, Workspace& workspace) const {
  const Matrix tokens = workspace.matrix(rows.rows, factors_.channels());
  factors_.gather(rows, tokens, workspace);
  centre_rows(tokens);  // what subtracting every token's mean comes to
  return tokens;
}

}  // namespace perceiver::runtime
