#include "nn/attend_tiles.h"

#include <algorithm>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

// The order of the kernels in LibTorch operations: tiles [B, H, rows, keys] with the softmax as
// (running maximum, sum, weighted sum), made again backward from the log-sum-exp. The side on a
// grid is cut where its lines end, so that a tile is [lines, columns] there: tables are added by
// broadcasting, sums taken by reducing, with no scatter. Nothing in the loops reads a tensor's
// values on the host.

namespace perceiver::nn {
namespace {

using kernels::GridSide;

constexpr int64_t kKeysPerTile = 2048;  // on the CPU
constexpr int64_t kRowsPerTile = 2048;  // elsewhere
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Tokens [begin, begin + length): whole lines of the grid's last axis or a part of one line.
struct Span {
  int64_t begin, length;
  int64_t lines, columns, first_column;
};

std::vector<Span> cut_anywhere(int64_t tokens, int64_t most) {
  std::vector<Span> spans;
  for (int64_t begin = 0; begin < tokens; begin += most) {
    const int64_t length = std::min(most, tokens - begin);
    spans.push_back({begin, length, 1, length, 0});
  }
  return spans;
}

std::vector<Span> cut_at_lines(int64_t tokens, const GridTerms& grid, int64_t most) {
  std::vector<Span> spans;
  const int64_t width = grid.extents.back();
  for (int64_t begin = 0; begin < tokens; begin += spans.back().length) {
    const int64_t column = (grid.begin + begin) % width;
    const int64_t left = std::min(most, tokens - begin);
    if (column == 0 && left >= width) {
      spans.push_back({begin, left / width * width, left / width, width, 0});
    } else {
      const int64_t length = std::min(left, width - column);
      spans.push_back({begin, length, 1, length, column});
    }
  }
  return spans;
}

/// Softmax state and results of float32 and wider types in their own type, of half types in float.
at::ScalarType accumulator_type(const at::Tensor& x) {
  return x.element_size() < 4 ? at::kFloat : x.scalar_type();
}

void add_reduced(at::Tensor into, const at::Tensor& x) {
  into.add_(x.sum_to_size(into.sizes()));
}

/// One call's terms, cut into tiles.
class Tiles {
 public:
  Tiles(const AttendTerms& terms, int64_t tile_bytes) : terms_(terms), x_(attend_extents(terms)) {
    options_ = terms.q.options().dtype(accumulator_type(terms.q));
    if (terms.key_mask.defined()) {
      masked_ = terms.key_mask.logical_not().view({-1, 1, 1, x_.keys});
    }
    if (tile_bytes <= 0) {
      tile_bytes = default_tile_bytes(terms.q);
    }
    const int64_t element = accumulator_type(terms.q) == at::kDouble ? 8 : 4;
    const int64_t budget = std::max<int64_t>(1, tile_bytes / (element * x_.batch * x_.heads));
    const int64_t most_keys =
        terms.q.is_cpu() ? std::min(kKeysPerTile, budget)
                         : std::max<int64_t>(budget / std::min(x_.queries, kRowsPerTile), 1);
    const int64_t width = std::clamp<int64_t>(x_.keys, 1, most_keys);
    rows = cut(x_.queries, GridSide::kQueries, std::max<int64_t>(1, budget / width));
    keys = cut(x_.keys, GridSide::kKeys, width);
  }

  const AttendExtents& extents() const { return x_; }
  const at::TensorOptions& accumulator() const { return options_; }
  int num_tables() const { return static_cast<int>(terms_.grid.tables.size()); }
  bool keys_on_grid() const { return terms_.grid.side == GridSide::kKeys; }

  /// [B or 1, H or 1, T, d] -> [B*H, span, d]; a view where strides allow.
  at::Tensor flat(const at::Tensor& x, const Span& span) const {
    return x.narrow(2, span.begin, span.length)
        .expand({x_.batch, x_.heads, span.length, x.size(3)})
        .reshape({x_.batch * x_.heads, span.length, x.size(3)});
  }
  at::Tensor unflat(const at::Tensor& x) const {
    return x.view({x_.batch, x_.heads, x.size(1), x.size(2)});
  }

  /// Masked scores [B, H, rows, keys]. `raw` receives them before scale and bias if not null.
  at::Tensor scores(const Span& row, const Span& key, at::Tensor* raw = nullptr) const {
    const at::Tensor nothing = at::empty({1, 1, 1}, terms_.q.options());  // beta = 0: never read
    at::Tensor s = unflat(at::baddbmm(nothing, flat(terms_.q, row),
                                      flat(terms_.k, key).transpose(1, 2), /*beta=*/0,
                                      /*alpha=*/terms_.scale))
                       .to(options_.dtype());
    for (int x = 0; x < num_tables(); ++x) {
      add_spread(s, terms_.grid.tables[static_cast<size_t>(x)], x, row, key);
    }
    if (raw != nullptr) {
      *raw = s;
      s = s.clone();
    }
    if (terms_.grid.scale.defined()) {
      s.mul_(token_scale(row, key));
    }
    if (terms_.key_bias.defined()) {
      s.add_(terms_.key_bias.narrow(2, key.begin, key.length).unsqueeze(2));
    }
    mask(s, key, -kInfinity);
    return s;
  }

  void mask(at::Tensor& tile, const Span& key, double value) const {
    if (masked_.defined()) {
      tile.masked_fill_(masked_.narrow(3, key.begin, key.length), value);
    }
  }

  /// a, to be multiplied with a tile.
  at::Tensor token_scale(const Span& row, const Span& key) const {
    const at::Tensor& scale = terms_.grid.scale;
    return keys_on_grid() ? scale.narrow(1, key.begin, key.length).view({-1, 1, 1, key.length})
                          : scale.narrow(1, row.begin, row.length).view({-1, 1, row.length, 1});
  }

  /// tile(i, j) += table(.., c_x of the token on the grid, ..)
  void add_spread(at::Tensor& tile, const at::Tensor& table, int x, const Span& row,
                  const Span& key) const {
    const Span& span = keys_on_grid() ? key : row;
    const int64_t axis = keys_on_grid() ? 3 : 2;
    at::Tensor part = keys_on_grid() ? table.narrow(2, row.begin, row.length)
                                     : table.narrow(3, key.begin, key.length);
    part = x + 1 == num_tables()
               ? part.narrow(axis, span.first_column, span.columns).unsqueeze(axis)
               : part.index_select(axis, line_coordinates(x, span)).unsqueeze(axis + 1);
    as_lines(tile, row, key).add_(part);
  }

  /// The transpose of add_spread: adds the tile's sums over equal coordinates to `table`.
  void collect(const at::Tensor& tile, at::Tensor table, int x, const Span& row,
               const Span& key) const {
    const Span& span = keys_on_grid() ? key : row;
    const int64_t axis = keys_on_grid() ? 3 : 2;
    const at::Tensor lines = as_lines(tile, row, key);
    at::Tensor part = keys_on_grid() ? table.narrow(2, row.begin, row.length)
                                     : table.narrow(3, key.begin, key.length);
    if (x + 1 == num_tables()) {
      add_reduced(part.narrow(axis, span.first_column, span.columns), lines.sum({axis}));
      return;
    }
    const at::Tensor all = at::arange(table.size(axis), options_.dtype(at::kLong));
    const at::Tensor one_hot = (line_coordinates(x, span).unsqueeze(1) == all).to(options_.dtype());
    const at::Tensor of_lines = lines.sum({axis + 1});
    add_reduced(part,
                keys_on_grid() ? at::matmul(of_lines, one_hot) : at::matmul(one_hot.t(), of_lines));
  }

  std::vector<Span> rows, keys;

 private:
  std::vector<Span> cut(int64_t tokens, GridSide side, int64_t most) const {
    return terms_.grid.side == side && num_tables() > 0 ? cut_at_lines(tokens, terms_.grid, most)
                                                        : cut_anywhere(tokens, most);
  }

  /// [B, H, rows, keys] with the side on the grid as [lines, columns].
  at::Tensor as_lines(const at::Tensor& tile, const Span& row, const Span& key) const {
    return keys_on_grid() ? tile.view({x_.batch, x_.heads, row.length, key.lines, key.columns})
                          : tile.view({x_.batch, x_.heads, row.lines, row.columns, key.length});
  }

  /// Coordinate of each line of the span on axis x, not the last: [lines].
  at::Tensor line_coordinates(int x, const Span& span) const {
    const std::vector<int64_t>& extents = terms_.grid.extents;
    int64_t stride = 1;
    for (size_t later = static_cast<size_t>(x) + 1; later + 1 < extents.size(); ++later) {
      stride *= extents[later];
    }
    const int64_t first = (terms_.grid.begin + span.begin) / extents.back();
    return at::arange(first, first + span.lines, options_.dtype(at::kLong))
        .div_(stride, "floor")
        .remainder_(extents[static_cast<size_t>(x)]);
  }

  const AttendTerms& terms_;
  AttendExtents x_;
  at::TensorOptions options_;
  at::Tensor masked_;
};

at::Tensor empty_out(const AttendExtents& x, const at::Tensor& v) {
  const int64_t width = v.size(3);
  return at::empty_strided({x.batch, x.heads, x.queries, width},
                           {x.queries * x.heads * width, width, x.heads * width, 1}, v.options());
}

void attend_row_tile(const AttendTerms& terms, const Tiles& tiles, const Span& row,
                     Attended& result) {
  const AttendExtents& x = tiles.extents();
  at::Tensor highest = at::full({x.batch, x.heads, row.length, 1}, -kInfinity, tiles.accumulator());
  at::Tensor total = at::zeros_like(highest);
  at::Tensor weighted =
      at::zeros({x.batch, x.heads, row.length, terms.v.size(3)}, tiles.accumulator());
  for (const Span& key : tiles.keys) {
    at::Tensor p = tiles.scores(row, key);
    const at::Tensor now = at::maximum(highest, p.amax({3}, /*keepdim=*/true));
    // rows without a valid key so far: -inf - 0 instead of -inf - -inf
    const at::Tensor finite = now.masked_fill(now == -kInfinity, 0);
    p.sub_(finite).exp_();
    const at::Tensor shrink = (highest - finite).exp_();
    total.mul_(shrink).add_(p.sum({3}, /*keepdim=*/true));
    if (tiles.keys_on_grid() && terms.grid.scale.defined()) {
      p.mul_(tiles.token_scale(row, key));
    }
    const at::Tensor values = tiles.flat(terms.v, key);
    weighted.mul_(shrink).add_(
        tiles.unflat(at::bmm(p.flatten(0, 1).to(values.scalar_type()), values)));
    for (size_t axis = 0; axis < result.sums.size(); ++axis) {
      result.sums[axis].narrow(2, row.begin, row.length).mul_(shrink);
      tiles.collect(p, result.sums[axis], static_cast<int>(axis), row, key);
    }
    highest = now;
  }
  const at::Tensor divisor = total.masked_fill(total == 0, 1);
  result.out.narrow(2, row.begin, row.length).copy_(weighted.div_(divisor));
  for (const at::Tensor& sums : result.sums) {
    sums.narrow(2, row.begin, row.length).div_(divisor);
  }
  result.lse.narrow(2, row.begin, row.length).copy_(total.log_().add_(highest).squeeze(3));
}

/// delta - grad_lse, [B, H, Q, 1]: what every score of a row loses per unit of its probability.
at::Tensor row_losses(const Attended& result, const Attended& grad, at::ScalarType type) {
  at::Tensor losses = (grad.out.to(type) * result.out).sum({3}, /*keepdim=*/true);
  for (size_t x = 0; x < grad.sums.size(); ++x) {
    if (grad.sums[x].defined()) {
      losses.add_((grad.sums[x].to(type) * result.sums[x]).sum({3}, /*keepdim=*/true));
    }
  }
  if (grad.lse.defined()) {
    losses.sub_(grad.lse.unsqueeze(3));
  }
  return losses;
}

class TilesBackward {
 public:
  TilesBackward(const AttendTerms& terms, const Tiles& tiles, const Attended& result,
                const Attended& grad, const PerInput<bool>& wanted)
      : terms_(terms), tiles_(tiles), grad_(grad) {
    const at::ScalarType type = tiles.accumulator().dtype().toScalarType();
    losses_ = row_losses(result, grad, type);
    // a row without a valid key has -inf; +inf makes its probabilities 0
    lse_ = result.lse.masked_fill(result.lse == -kInfinity, kInfinity).unsqueeze(3);
    const auto zeros = [&](const at::Tensor& x, bool want) {
      return want ? at::zeros_like(x, tiles.accumulator()) : at::Tensor();
    };
    into_ = {.q = zeros(terms.q, wanted.q),
             .k = zeros(terms.k, wanted.k),
             .v = zeros(terms.v, wanted.v),
             .key_bias = zeros(terms.key_bias, wanted.key_bias),
             .scale = zeros(terms.grid.scale, wanted.scale),
             .tables = {}};
    for (size_t x = 0; x < terms.grid.tables.size(); ++x) {
      into_.tables.push_back(zeros(terms.grid.tables[x], wanted.tables[x]));
    }
  }

  PerInput<at::Tensor> run() {
    for (const Span& row : tiles_.rows) {
      const at::Tensor grad_out = tiles_.flat(grad_.out, row);
      for (const Span& key : tiles_.keys) {
        run_tile(row, key, grad_out);
      }
    }
    return into_;
  }

 private:
  void run_tile(const Span& row, const Span& key, const at::Tensor& grad_out) {
    const bool scaled = terms_.grid.scale.defined();
    const bool scaled_values = scaled && tiles_.keys_on_grid();
    at::Tensor raw;
    at::Tensor p = tiles_.scores(row, key, into_.scale.defined() ? &raw : nullptr);
    p.sub_(lse_.narrow(2, row.begin, row.length)).exp_();
    const at::Tensor w = scaled_values ? p * tiles_.token_scale(row, key) : p;
    if (into_.v.defined()) {
      add_tokens(into_.v, key, at::bmm(flat(w, grad_out).transpose(1, 2), grad_out));
    }
    at::Tensor ds = tiles_.unflat(at::bmm(grad_out, tiles_.flat(terms_.v, key).transpose(1, 2)))
                        .to(p.scalar_type());
    for (size_t x = 0; x < grad_.sums.size(); ++x) {
      if (grad_.sums[x].defined()) {
        tiles_.add_spread(ds, grad_.sums[x], static_cast<int>(x), row, key);
      }
    }
    tiles_.mask(ds, key, 0);  // a masked value may be anything
    at::Tensor grad_scale = scaled_values && raw.defined() ? p * ds : at::Tensor();
    if (scaled_values) {
      ds.mul_(tiles_.token_scale(row, key));
    }
    ds.sub_(losses_.narrow(2, row.begin, row.length)).mul_(p);
    if (raw.defined()) {
      raw.mul_(ds);
      add_scale(row, key, grad_scale.defined() ? raw.add_(grad_scale) : raw);
    }
    if (into_.key_bias.defined()) {
      add_reduced(into_.key_bias.narrow(2, key.begin, key.length), ds.sum({2}));
    }
    add_raw(row, key, scaled ? ds.mul_(tiles_.token_scale(row, key)) : ds);
  }

  void add_raw(const Span& row, const Span& key, const at::Tensor& dr) {
    const at::Tensor flat_dr = flat(dr, terms_.q);
    if (into_.q.defined()) {
      add_tokens(into_.q, row, at::bmm(flat_dr, tiles_.flat(terms_.k, key)), terms_.scale);
    }
    if (into_.k.defined()) {
      add_tokens(into_.k, key, at::bmm(flat_dr.transpose(1, 2), tiles_.flat(terms_.q, row)),
                 terms_.scale);
    }
    for (size_t x = 0; x < into_.tables.size(); ++x) {
      if (into_.tables[x].defined()) {
        tiles_.collect(dr, into_.tables[x], static_cast<int>(x), row, key);
      }
    }
  }

  void add_scale(const Span& row, const Span& key, const at::Tensor& grad) {
    const bool keys = tiles_.keys_on_grid();
    const Span& span = keys ? key : row;
    const int64_t gone[2] = {1, keys ? 2 : 3};
    add_reduced(into_.scale.narrow(1, span.begin, span.length), grad.sum(gone));
  }

  void add_tokens(const at::Tensor& into, const Span& span, const at::Tensor& flat_grad,
                  double factor = 1) {
    const at::Tensor part = into.narrow(2, span.begin, span.length);
    part.add_(tiles_.unflat(flat_grad).sum_to_size(part.sizes()), factor);
  }

  static at::Tensor flat(const at::Tensor& tile, const at::Tensor& like) {
    return tile.flatten(0, 1).to(like.scalar_type());
  }

  const AttendTerms& terms_;
  const Tiles& tiles_;
  const Attended& grad_;
  at::Tensor losses_, lse_;
  PerInput<at::Tensor> into_;
};

}  // namespace

int64_t default_tile_bytes(const at::Tensor& q) {
  return int64_t{q.is_cpu() ? 8 : 128} << 20;
}

Attended attend_tiles(const AttendTerms& terms, int64_t tile_bytes) {
  const Tiles tiles(terms, tile_bytes);
  const AttendExtents& x = tiles.extents();
  Attended result{.out = empty_out(x, terms.v),
                  .lse = at::empty({x.batch, x.heads, x.queries}, tiles.accumulator()),
                  .sums = {}};
  for (int axis = 0; axis < tiles.num_tables() && tiles.keys_on_grid(); ++axis) {
    result.sums.push_back(
        at::zeros({x.batch, x.heads, x.queries, terms.grid.extents[static_cast<size_t>(axis)]},
                  tiles.accumulator()));
  }
  for (const Span& row : tiles.rows) {
    attend_row_tile(terms, tiles, row, result);
  }
  for (at::Tensor& sums : result.sums) {
    sums = sums.to(terms.v.scalar_type());
  }
  return result;
}

PerInput<at::Tensor> attend_tiles_backward(const AttendTerms& terms, const Attended& result,
                                           const Attended& grad, const PerInput<bool>& wanted,
                                           int64_t tile_bytes) {
  const Tiles tiles(terms, tile_bytes);
  return TilesBackward(terms, tiles, result, grad, wanted).run();
}

}  // namespace perceiver::nn
