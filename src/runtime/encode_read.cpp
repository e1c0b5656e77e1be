#include <algorithm>
#include <cmath>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "runtime/encode_parts.h"

namespace perceiver::runtime {
namespace {

using kernels::AttendForward;
using kernels::GridSide;

constexpr int64_t kDefaultScratch = int64_t{8} << 20;
constexpr int64_t kMostTokens = 16384, kFewestTokens = 64;

/// Tokens a block may have when one takes so many floats.
int64_t block_tokens(int64_t scratch_bytes, int64_t floats) {
  const int64_t bytes = scratch_bytes > 0 ? scratch_bytes : kDefaultScratch;
  return std::clamp(bytes / (4 * std::max<int64_t>(floats, 1)), kFewestTokens, kMostTokens);
}

enum class Validity { kAll, kSome, kNone };

Validity validity(const uint8_t* mask, int64_t begin, int64_t end) {
  if (mask == nullptr) {
    return Validity::kAll;
  }
  const int64_t valid =
      (end - begin) - std::count(mask + begin, mask + end, static_cast<uint8_t>(0));
  return valid == 0 ? Validity::kNone : valid == end - begin ? Validity::kAll : Validity::kSome;
}

/// What one block of tokens becomes: keys and values of an attend call. A row of the call's result
/// is [v_dim | sums...], `width` floats.
class BlockForm {
 public:
  virtual ~BlockForm() = default;
  virtual int64_t floats_per_token() const = 0;
  virtual int64_t width() const = 0;
  /// Keys, values, scale and grid of tokens [begin, end) of example b; what it takes from the
  /// workspace must outlive the call.
  virtual void fill(int64_t b, int64_t begin, int64_t end, AttendForward<float>& args,
                    Workspace& workspace) const = 0;
  /// Where the sums of a row go.
  virtual void point_sums(float* /*row*/, int64_t /*queries*/,
                          AttendForward<float>& /*args*/) const {}
  /// Rows of results [n, width] -> rows of the state.
  virtual ConstMatrix to_state(Matrix rows, Workspace& /*workspace*/) const { return rows; }
};

/// LayerNorm's result, its scale and shift left to the weights.
Matrix normed_tokens(TokenSource& source, int64_t b, int64_t begin, int64_t end, float eps,
                     Workspace& workspace) {
  const Matrix tokens = workspace.matrix(end - begin, source.channels());
  source.dense(b, begin, end, tokens);
  kernels::normalise_rows(tokens.rows, tokens.columns, tokens.data, tokens.stride, eps, tokens.data,
                          tokens.stride);
  return tokens;
}

class TextbookForm : public BlockForm {
 public:
  TextbookForm(TokenSource& source, const AttentionShape& shape, const Linear& key_value, float eps)
      : source_(source), shape_(shape), key_value_(key_value), eps_(eps) {}
  int64_t floats_per_token() const override {
    return source_.channels() + shape_.qk_channels + shape_.v_channels;
  }
  int64_t width() const override { return shape_.v_channels / shape_.num_heads; }
  void fill(int64_t b, int64_t begin, int64_t end, AttendForward<float>& args,
            Workspace& workspace) const override {
    const Matrix both = workspace.dense(end - begin, key_value_.out());
    {
      const Workspace::Scope scope(workspace);
      key_value_.apply(normed_tokens(source_, b, begin, end, eps_, workspace), both);
    }
    const int64_t qk_dim = shape_.qk_channels / shape_.num_heads;
    args.shape.qk_dim = qk_dim;
    args.shape.v_dim = width();
    args.k = {both.data, 0, qk_dim, both.stride};
    args.v = {both.data + shape_.qk_channels, 0, width(), both.stride};
  }

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
  void fill(int64_t b, int64_t begin, int64_t end, AttendForward<float>& args,
            Workspace& workspace) const override {
    const Matrix tokens = normed_tokens(source_, b, begin, end, eps_, workspace);
    args.shape.qk_dim = args.shape.v_dim = tokens.columns;
    args.k = args.v = {tokens.data, 0, 0, tokens.stride};
  }

 private:
  TokenSource& source_;
  float eps_;
};

/// Only the content is there token by token. Queries are centred, so the mean of a token needs no
/// term of its own; 1 / sigma is the kernel's per-token scale.
class FactoredForm : public BlockForm {
 public:
  FactoredForm(TokenSource& source, const FactoredTables& parts, const AttentionShape& shape,
               int64_t set, int64_t latents, int64_t first_token, float eps)
      : source_(source),
        factors_(parts.factors),
        parts_(parts),
        rows_per_set_(shape.num_heads * latents),
        latents_(latents),
        set_(set),
        first_token_(first_token),
        eps_(eps) {}
  int64_t floats_per_token() const override { return factors_.content_channels() + 1; }
  int64_t width() const override { return factors_.content_channels() + factors_.extents(); }
  void fill(int64_t b, int64_t begin, int64_t end, AttendForward<float>& args,
            Workspace& workspace) const override {
    const Matrix content = workspace.matrix(end - begin, factors_.content_channels());
    source_.content(b, begin, end, content);
    float* scale = workspace.take(end - begin);
    const int64_t first = first_token_ + begin;
    factors_.scales(content, first, eps_, scale);
    args.shape.qk_dim = args.shape.v_dim = content.columns;
    args.k = args.v = {content.data, 0, 0, content.stride};
    args.grid.side = GridSide::kKeys;
    args.grid.num_axes = factors_.num_axes();
    args.grid.begin = first;
    args.grid.scale = scale;
    for (int axis = 0; axis < factors_.num_axes(); ++axis) {
      const int64_t extent = factors_.extent(axis);
      args.grid.extents[axis] = extent;
      args.grid.tables[axis] = {
          parts_.tables[static_cast<size_t>(axis)].data() + set_ * rows_per_set_ * extent, 0,
          latents_ * extent, extent};
    }
  }
  void point_sums(float* row, int64_t queries, AttendForward<float>& args) const override {
    float* sums = row + factors_.content_channels();
    for (int axis = 0; axis < factors_.num_axes(); ++axis) {
      args.sums[axis] = {sums, 0, queries * width(), width()};
      sums += factors_.extent(axis);
    }
  }
  ConstMatrix to_state(Matrix rows, Workspace& workspace) const override {
    const Matrix tokens = workspace.matrix(rows.rows, factors_.channels());
    factors_.gather(rows, tokens, workspace);
    centre_rows(tokens);  // what subtracting every token's mean comes to
    return tokens;
  }

 private:
  TokenSource& source_;
  const TokenFactors& factors_;
  const FactoredTables& parts_;
  int64_t rows_per_set_, latents_, set_, first_token_;
  float eps_;
};

/// Mean over the tokens of a block, of what the state is a mean of; all heads side by side.
void add_plain_mean(const CrossAttendIn::Queries& queries, CrossAttendIn::Parts& parts,
                    TokenSource& source, int64_t b, int64_t begin, int64_t end, ReadState& state,
                    Workspace& workspace) {
  const Workspace::Scope scope(workspace);
  Matrix values = normed_tokens(source, b, begin, end, parts.eps, workspace);
  if (queries.plan == Plan::kTextbook) {
    const Linear& linear = parts.textbook_linear();
    const Matrix both = workspace.matrix(values.rows, linear.out());
    linear.apply(values, both);
    values = both.slice(parts.shape.qk_channels, parts.shape.v_channels);
  }
  auto* sum = reinterpret_cast<double*>(
      workspace.take_bytes(values.columns * static_cast<int64_t>(sizeof(double))));
  std::fill_n(sum, values.columns, 0.0);
  for (int64_t i = 0; i < values.rows; ++i) {
    for (int64_t c = 0; c < values.columns; ++c) {
      sum[c] += static_cast<double>(values.row(i)[c]);
    }
  }
  float* mean = workspace.take(values.columns);
  for (int64_t c = 0; c < values.columns; ++c) {
    mean[c] = static_cast<float>(sum[c] / static_cast<double>(values.rows));
  }
  state.add_plain(b, mean, static_cast<double>(values.rows));
}

/// Reads tokens of one example block by block and merges them into the state at the end.
class ExampleReader {
 public:
  ExampleReader(const CrossAttendIn::Queries& queries, CrossAttendIn::Parts& parts,
                TokenSource& source, const BlockForm& form, int64_t b)
      : queries_(queries), parts_(parts), source_(source), form_(form), b_(b) {}

  void read(int64_t begin, int64_t end, ReadState& state, Workspace& workspace) {
    const Workspace::Scope scope(workspace);
    const int64_t rows = parts_.shape.num_heads * queries_.latents;
    const Matrix total{workspace.take(rows * form_.width()), rows, form_.width(), form_.width()};
    float* lse = workspace.take(rows);
    const int64_t step = block_tokens(parts_.scratch_bytes, form_.floats_per_token());
    bool any = false;
    for (int64_t first = begin; first < end; first += step) {
      const int64_t last = std::min(first + step, end);
      const Validity valid = validity(source_.mask(b_), first, last);
      if (valid == Validity::kNone) {
        if (state.plain_width > 0) {
          add_plain_mean(queries_, parts_, source_, b_, first, last, state, workspace);
        }
        done_with(first, last);
        continue;
      }
      if (any) {
        const Workspace::Scope part_scope(workspace);
        const Matrix part{workspace.take(total.rows * total.stride), rows, total.columns,
                          total.stride};
        float* part_lse = workspace.take(rows);
        attend_block(first, last, valid, part, part_lse, workspace);
        kernels::merge_attended(rows, total.columns, total.data, total.stride, lse, part.data,
                                part.stride, part_lse);
      } else {
        attend_block(first, last, valid, total, lse, workspace);
      }
      any = true;
      done_with(first, last);
    }
    if (any) {
      const ConstMatrix mean = form_.to_state(total, workspace);
      kernels::merge_attended(rows, state.width, state.mean.data() + b_ * rows * state.width,
                              state.width, state.lse.data() + b_ * rows, mean.data, mean.stride,
                              lse);
    }
  }

 private:
  void attend_block(int64_t first, int64_t last, Validity valid, Matrix out, float* lse,
                    Workspace& workspace) const {
    const Workspace::Scope scope(workspace);
    const int64_t n = queries_.latents;
    AttendForward<float> args;
    args.shape.heads = parts_.shape.num_heads;
    args.shape.queries = n;
    args.shape.keys = last - first;
    form_.fill(b_, first, last, args, workspace);
    args.q = query_rows(args.shape.qk_dim);
    args.key_mask = valid == Validity::kSome ? source_.mask(b_) + first : nullptr;
    args.out = {out.data, 0, n * out.stride, out.stride};
    args.lse = lse;
    args.bfloat16 = parts_.precision == Precision::kBF16;
    form_.point_sums(out.data, n, args);
    kernels::attend(args);
  }

  /// Under a bound on memory an input larger than it must not pile up behind the reader.
  void done_with(int64_t first, int64_t last) const {
    if (parts_.scratch_bytes > 0) {
      source_.forget(b_, first, last);
    }
  }

  kernels::Rows<const float> query_rows(int64_t qk_dim) const {
    const int64_t n = queries_.latents, set = queries_.sets == 1 ? 0 : b_;
    if (queries_.plan == Plan::kTextbook) {
      const int64_t qk = parts_.shape.qk_channels;
      return {queries_.rows.data() + set * n * qk, 0, qk_dim, qk};
    }
    // factored: content channels come first in a row
    const int64_t width = queries_.width;
    return {queries_.rows.data() + set * parts_.shape.num_heads * n * width, 0, n * width, width};
  }

  const CrossAttendIn::Queries& queries_;
  CrossAttendIn::Parts& parts_;
  TokenSource& source_;
  const BlockForm& form_;
  int64_t b_;
};

/// Calls use(form) with the form that the plan and the source ask for.
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

void check_source(const CrossAttendIn::Queries& queries, const AttentionShape& shape,
                  const TokenSource& source, const ReadState& state) {
  if (source.channels() != shape.input_channels || source.batch() != queries.batch) {
    throw Error(ErrorCode::kShape,
                cat("[input ", source.name(), "] tokens [batch, channels] are ",
                    shape_string({source.batch(), source.channels()}), ", the encoder reads ",
                    shape_string({queries.batch, shape.input_channels})));
  }
  if (state.batch != queries.batch || state.heads != shape.num_heads ||
      state.latents != queries.latents || state.width != queries.width) {
    throw Error(
        ErrorCode::kArgument,
        cat("[input ", source.name(), "] the state [batch, heads, latents, width] is ",
            shape_string({state.batch, state.heads, state.latents, state.width}),
            ", the queries are for ",
            shape_string({queries.batch, shape.num_heads, queries.latents, queries.width})));
  }
}

}  // namespace

void CrossAttendIn::read(const Queries& queries, TokenSource& source, int64_t begin, int64_t end,
                         int64_t first_token, ReadState& state, Workspace& workspace) const {
  if (state.lse.empty()) {
    empty(queries, state);
  }
  check_source(queries, parts_->shape, source, state);
  for (int64_t b = 0; b < queries.batch; ++b) {
    with_form(queries, *parts_, source, b, first_token, workspace, [&](const BlockForm& form) {
      ExampleReader(queries, *parts_, source, form, b).read(begin, end, state, workspace);
    });
  }
  state.tokens += end - begin;
}

namespace {

/// p = exp(score - lse) in place; 0 where masked, the same everywhere for a row without valid keys.
void weights_of_scores(Matrix scores, const float* lse, const uint8_t* mask, float of_empty_row) {
  for (int64_t i = 0; i < scores.rows; ++i) {
    float* row = scores.row(i);
    if (lse[i] == -std::numeric_limits<float>::infinity()) {
      std::fill_n(row, scores.columns, of_empty_row);
      continue;
    }
    for (int64_t j = 0; j < scores.columns; ++j) {
      row[j] = mask != nullptr && mask[j] == 0 ? 0.0F : std::exp(row[j] - lse[i]);
    }
  }
}

}  // namespace

void CrossAttendIn::map(const Queries& queries, TokenSource& source, const ReadState& state,
                        int64_t column, int64_t num_tokens, float* out,
                        Workspace& workspace) const {
  check_source(queries, parts_->shape, source, state);
  Parts& parts = *parts_;
  const bool textbook = queries.plan == Plan::kTextbook;
  const int64_t n = state.latents, heads = state.heads, qk_dim = parts.qk_dim();
  const float of_empty_row =
      parts.masked_rows == MaskedRows::kMean ? 1 / static_cast<float>(num_tokens) : 0.0F;
  const int64_t step = block_tokens(parts.scratch_bytes, 2 * parts.shape.input_channels);
  const int64_t blocks = (source.count() + step - 1) / step;
  for (int64_t block = 0; block < state.batch * blocks; ++block) {
    const int64_t b = block / blocks, first = block % blocks * step;
    const int64_t last = std::min(first + step, source.count());
    const Workspace::Scope scope(workspace);
    ConstMatrix keys = normed_tokens(source, b, first, last, parts.eps, workspace);
    if (textbook) {
      const Matrix both = workspace.matrix(keys.rows, parts.textbook_linear().out());
      parts.textbook_linear().apply(keys, both);
      keys = both;
    }
    const uint8_t* mask = source.mask(b) == nullptr ? nullptr : source.mask(b) + first;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t set = queries.sets == 1 ? 0 : b, row = (b * heads + h) * n;
      const ConstMatrix q =
          textbook ? ConstMatrix{queries.rows.data() + set * n * parts.shape.qk_channels, n,
                                 parts.shape.qk_channels, parts.shape.qk_channels}
                         .slice(h * qk_dim, qk_dim)
                   : ConstMatrix{queries.rows.data() + (set * heads + h) * n * queries.width, n,
                                 queries.width, queries.width};
      const Matrix scores{out + row * num_tokens + column + first, n, last - first, num_tokens};
      multiply_transposed(q, textbook ? keys.slice(h * qk_dim, qk_dim) : keys, scores);
      weights_of_scores(scores, state.lse.data() + row, mask, of_empty_row);
    }
  }
}

}  // namespace perceiver::runtime
