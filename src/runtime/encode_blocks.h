#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "perceiver/kernels/attend.h"
#include "runtime/encode_parts.h"
#include "runtime/running_mean.h"
#include "runtime/token_window.h"

// Private to encode_read.cpp and encode_blocks.cpp.

namespace perceiver::runtime {

/// Which columns of all results a window reaches: the content's and some of each axis.
struct ColumnPieces {
  std::array<ColumnPiece, kernels::kMaxGridAxes + 1> pieces{};
  int64_t count = 0;
  int64_t part_width = 0;  ///< of a row of the window's own results

  void append(int64_t to, int64_t width) {
    pieces[static_cast<size_t>(count++)] = {part_width, to, width};
    part_width += width;
  }
};

/// What the tokens of a window become: keys and values of an attend call. A row of all results is
/// [v_dim | sums...], `width` floats.
class BlockForm {
 public:
  virtual ~BlockForm() = default;
  virtual int64_t floats_per_token() const = 0;
  virtual int64_t width() const = 0;
  /// Tokens in a row of the grid, where windows are rectangles; rows begin at tokens t with
  /// (origin + t) % row_tokens == 0.
  virtual int64_t row_tokens() const { return std::numeric_limits<int64_t>::max(); }
  virtual int64_t origin() const { return 0; }
  virtual ColumnPieces reached(const TokenWindow& /*window*/) const {
    ColumnPieces all;
    all.append(0, width());
    return all;
  }
  /// Keys, values, scale and grid of a window of example b; what it takes from the workspace must
  /// outlive the call.
  virtual void fill(int64_t b, const TokenWindow& window, kernels::AttendForward<float>& args,
                    Workspace& workspace) const = 0;
  /// Where the sums go of rows [queries, part_width] that begin at `row`; after fill().
  virtual void point_sums(float* /*row*/, int64_t /*queries*/, int64_t /*part_width*/,
                          kernels::AttendForward<float>& /*args*/) const {}
  /// Rows of all results [n, width] -> rows of the state.
  virtual ConstMatrix to_state(Matrix rows, Workspace& /*workspace*/) const { return rows; }
};

class TextbookForm : public BlockForm {
 public:
  TextbookForm(TokenSource& source, const AttentionShape& shape, const Linear& key_value, float eps)
      : source_(source), shape_(shape), key_value_(key_value), eps_(eps) {}
  int64_t floats_per_token() const override {
    return source_.channels() + shape_.qk_channels + shape_.v_channels;
  }
  int64_t width() const override { return shape_.v_channels / shape_.num_heads; }
  void fill(int64_t b, const TokenWindow& window, kernels::AttendForward<float>& args,
            Workspace& workspace) const override;

 private:
  TokenSource& source_;
  const AttentionShape& shape_;
  const Linear& key_value_;
  float eps_;
};

/// Keys and values are the normalised tokens themselves, the same for every head.
class AbsorbedForm : public BlockForm {
 public:
  AbsorbedForm(TokenSource& source, float eps) : source_(source), eps_(eps) {}
  int64_t floats_per_token() const override { return source_.channels(); }
  int64_t width() const override { return source_.channels(); }
  void fill(int64_t b, const TokenWindow& window, kernels::AttendForward<float>& args,
            Workspace& workspace) const override;

 private:
  TokenSource& source_;
  float eps_;
};

/// Only the content is there token by token. Queries are centred, so the mean of a token needs no
/// term of its own; 1 / sigma is the kernel's per-token scale. A window is a grid of its own, with
/// its part of the tables.
class FactoredForm : public BlockForm {
 public:
  /// @param set          of the queries
  /// @param first_token  where on the grid the source's token 0 lies
  FactoredForm(TokenSource& source, const FactoredTables& parts, const AttentionShape& shape,
               int64_t set, int64_t latents, int64_t first_token, float eps);
  int64_t floats_per_token() const override { return factors_.content_channels() + 1; }
  int64_t width() const override { return factors_.content_channels() + factors_.extents(); }
  int64_t row_tokens() const override { return factors_.extent(inner_); }
  int64_t origin() const override { return first_token_; }
  ColumnPieces reached(const TokenWindow& window) const override;
  void fill(int64_t b, const TokenWindow& window, kernels::AttendForward<float>& args,
            Workspace& workspace) const override;
  void point_sums(float* row, int64_t queries, int64_t part_width,
                  kernels::AttendForward<float>& args) const override;
  ConstMatrix to_state(Matrix rows, Workspace& workspace) const override;

 private:
  /// Coordinates on one axis.
  struct Range {
    int64_t begin, count;
  };
  Range range(int axis, const TokenWindow& window) const;

  TokenSource& source_;
  const TokenFactors& factors_;
  const FactoredTables& parts_;
  int64_t rows_per_set_, latents_, set_, first_token_;
  int64_t plane_ = 1;  ///< rows of one coordinate of axis 0
  int inner_;          ///< the last axis that is longer than 1, else the last
  float eps_;
};

/// Calls use(form) with the form that the plan and the source ask for.
/// @param first_token  where on the grid the source's token 0 lies
template <typename Use>
void with_form(const CrossAttendIn::Queries& queries, CrossAttendIn::Parts& parts,
               TokenSource& source, int64_t b, int64_t first_token, Workspace& workspace,
               const Use& use) {
  if (queries.plan == Plan::kTextbook) {
    use(TextbookForm(source, parts.shape, parts.textbook_linear(), parts.eps));
  } else if (queries.plan == Plan::kFactored && TokenFactors::applies(source) &&
             source.content_channels() > 0) {
    use(FactoredForm(source, queries.of_source(parts.shape, source, workspace), parts.shape,
                     queries.sets == 1 ? 0 : b, queries.latents, first_token, parts.eps));
  } else {
    use(AbsorbedForm(source, parts.eps));
  }
}

}  // namespace perceiver::runtime
