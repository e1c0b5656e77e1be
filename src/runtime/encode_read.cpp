#include <algorithm>
#include <cmath>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "runtime/encode_blocks.h"

namespace perceiver::runtime {
namespace {

using kernels::AttendForward;

constexpr int64_t kDefaultScratch = int64_t{8} << 20;
constexpr int64_t kMostTokens = 16384, kFewestTokens = 64;

/// Tokens a block may have when one takes so many floats.
int64_t block_tokens(int64_t scratch_bytes, int64_t floats) {
  const int64_t bytes = scratch_bytes > 0 ? scratch_bytes : kDefaultScratch;
  return std::clamp(bytes / (4 * std::max<int64_t>(floats, 1)), kFewestTokens, kMostTokens);
}

enum class Validity { kAll, kSome, kNone };

/// @param mask  of `count` tokens; null = all
Validity validity(const uint8_t* mask, int64_t count) {
  if (mask == nullptr) {
    return Validity::kAll;
  }
  const int64_t valid = count - std::count(mask, mask + count, static_cast<uint8_t>(0));
  return valid == 0 ? Validity::kNone : valid == count ? Validity::kAll : Validity::kSome;
}

/// Mean over the tokens of a block, of what the state is a mean of; all heads side by side.
void add_plain_mean(const CrossAttendIn::Queries& queries, CrossAttendIn::Parts& parts,
                    TokenSource& source, int64_t b, int64_t begin, int64_t end, ReadState& state,
                    Workspace& workspace) {
  const Workspace::Scope scope(workspace);
  Matrix values = normed_rows(source, b, begin, end, parts.eps,
                              workspace.matrix(end - begin, source.channels()));
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

/// Reads tokens of one example window by window and merges them into the state at the end.
class ExampleReader {
 public:
  ExampleReader(const CrossAttendIn::Queries& queries, CrossAttendIn::Parts& parts,
                TokenSource& source, const BlockForm& form, int64_t b)
      : queries_(queries), parts_(parts), source_(source), form_(form), b_(b) {}

  void read(int64_t begin, int64_t end, ReadState& state, Workspace& workspace) {
    const Workspace::Scope scope(workspace);
    const int64_t rows = parts_.shape.num_heads * queries_.latents;
    RunningMean mean(rows, form_.width(), workspace);
    bool any = false;
    const auto use = [&](const TokenWindow& window) {
      any = read_window(window, mean, state, workspace) || any;
    };
    for_windows(begin, end, form_.origin(), form_.row_tokens(), limits(), use,
                [this](int64_t first, int64_t last) { done_with(first, last); });
    if (any) {
      const ConstMatrix read = form_.to_state(mean.finish(), workspace);
      kernels::merge_attended(rows, state.width, state.mean.data() + b_ * rows * state.width,
                              state.width, state.lse.data() + b_ * rows, read.data, read.stride,
                              mean.lse());
    }
  }

 private:
  CutLimits limits() const {
    const int64_t window = block_tokens(parts_.scratch_bytes, form_.floats_per_token());
    // Under a bound on memory so much of an input file is mapped at a time.
    const bool bounded = parts_.scratch_bytes > 0;
    return {window, bounded ? window : std::numeric_limits<int64_t>::max()};
  }

  /// Whether any of its tokens is valid.
  bool read_window(const TokenWindow& window, RunningMean& mean, ReadState& state,
                   Workspace& workspace) {
    const Workspace::Scope scope(workspace);
    const uint8_t* mask = mask_of(window, workspace);
    const Validity valid = validity(mask, window.count());
    if (valid == Validity::kNone) {
      for (int64_t run = 0; run < window.runs && state.plain_width > 0; ++run) {
        const int64_t first = window.begin(run);
        add_plain_mean(queries_, parts_, source_, b_, first, first + window.columns, state,
                       workspace);
      }
      return false;
    }
    const ColumnPieces reached = form_.reached(window);
    const int64_t rows = parts_.shape.num_heads * queries_.latents;
    const Matrix part{workspace.take(rows * reached.part_width), rows, reached.part_width,
                      reached.part_width};
    float* lse = workspace.take(rows);
    attend_window(window, valid == Validity::kSome ? mask : nullptr, part, lse, workspace);
    mean.add(part, lse, reached.pieces.data(), reached.count);
    return true;
  }

  /// Of the window's tokens in their order; null where all are valid.
  const uint8_t* mask_of(const TokenWindow& window, Workspace& workspace) const {
    const uint8_t* mask = source_.mask(b_);
    if (mask == nullptr) {
      return nullptr;
    }
    if (window.is_range()) {
      return mask + window.first;
    }
    auto* own = reinterpret_cast<uint8_t*>(workspace.take_bytes(window.count()));
    for (int64_t run = 0; run < window.runs; ++run) {
      std::copy_n(mask + window.begin(run), window.columns, own + run * window.columns);
    }
    return own;
  }

  void attend_window(const TokenWindow& window, const uint8_t* mask, Matrix out, float* lse,
                     Workspace& workspace) const {
    const Workspace::Scope scope(workspace);
    const int64_t n = queries_.latents;
    AttendForward<float> args;
    args.shape.heads = parts_.shape.num_heads;
    args.shape.queries = n;
    args.shape.keys = window.count();
    form_.fill(b_, window, args, workspace);
    args.q = query_rows(args.shape.qk_dim);
    args.key_mask = mask;
    args.out = {out.data, 0, n * out.stride, out.stride};
    args.lse = lse;
    args.bfloat16 = parts_.precision == Precision::kBF16;
    form_.point_sums(out.data, n, out.columns, args);
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
    ConstMatrix keys = normed_rows(source, b, first, last, parts.eps,
                                   workspace.matrix(last - first, source.channels()));
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
