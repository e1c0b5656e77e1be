#pragma once

#include "kernels/attend_backward.h"
#include "kernels/tile-inl.h"

// The backward tile, one text for every instruction set (see tile-inl.h for what that asks of it).
// Of a tile of scores S = Q K^T and weight gradients G = dO V^T it makes, in place, the weights
// W and the gradients R of the raw scores; then dV += W^T dO, dQ += R K and dK += R^T Q.

namespace perceiver::kernels {
namespace {

/// Keys of one tile that lie on one line of the grid.
struct LineOfKeys {
  int64_t start, length;  ///< within the tile
  int64_t at[kMaxGridAxes];
};

PERCEIVER_INLINE void coordinates_of(const TokenGrid<float>& grid, int64_t token, int64_t* at) {
  int64_t index = grid.begin + token;
  for (int x = grid.num_axes - 1; x >= 0; --x) {
    at[x] = index % grid.extents[x];
    index /= grid.extents[x];
  }
}

/// @return how many lines the keys of the tile lie on
inline int64_t lines_of_keys(const TokenGrid<float>& grid, const BackwardBlock& keys,
                             LineOfKeys* lines) {
  int64_t count = 0;
  const int last = grid.num_axes - 1;
  for (int64_t done = 0; done < keys.count; ++count) {
    LineOfKeys& line = lines[count];
    coordinates_of(grid, keys.begin + done, line.at);
    line.start = done;
    line.length = lesser(keys.count - done, grid.extents[last] - line.at[last]);
    done += line.length;
  }
  return count;
}

/// y += x + addend
PERCEIVER_INLINE void add_run(int64_t n, const float* x, float addend, float* y) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    store(y + c, load(y + c) + (load(x + c) + addend));
  }
  for (; c < n; ++c) {
    y[c] += x[c] + addend;
  }
}

PERCEIVER_INLINE float sum_run(int64_t n, const float* x) {
  V sum{};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    sum += load(x + c);
  }
  return sum_of(c < n ? sum + load_first(x + c, n - c) : sum);
}

PERCEIVER_INLINE float dot_run(int64_t n, const float* x, const float* y) {
  V sum{};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    sum += load(x + c) * load(y + c);
  }
  return sum_of(c < n ? sum + load_first(x + c, n - c) * load_first(y + c, n - c) : sum);
}

template <typename T>
PERCEIVER_INLINE T* row_of(const Rows<T>& rows, int64_t batch, int64_t head, int64_t i) {
  return rows.data + batch * rows.batch + head * rows.head + i * rows.row;
}

/// Adds the grid's terms to, and takes their gradients from, one row of a tile at a time.
class GridRows {
 public:
  explicit GridRows(const BackwardTile& tile)
      : tile_(tile), grid_(tile.args->forward.grid), axes_(grid_.num_axes) {
    if (grid_.side == GridSide::kNone) {
      axes_ = 0;
    }
    if (grid_.side == GridSide::kKeys && axes_ > 0) {
      num_lines_ = lines_of_keys(grid_, tile.keys, lines_);
    }
    for (int x = 0; x < axes_; ++x) {
      tables_[x] = {row_of(grid_.tables[x], tile.batch, tile.head, 0), grid_.tables[x].row};
      const Rows<const float>& sums = tile.args->grad_sums[x];
      if (grid_.side == GridSide::kKeys && sums.data != nullptr) {
        sums_[x] = {row_of(sums, tile.batch, tile.head, 0), sums.row};
        has_sums_ = true;
      }
    }
  }

  /// Of query i of the tile.
  PERCEIVER_INLINE void add_to_scores(int64_t i, float* scores) const {
    if (axes_ == 0) {
      return;
    }
    const int64_t query = tile_.queries.begin + i;
    if (grid_.side == GridSide::kKeys) {
      spread(tables_, query, scores);
      return;
    }
    int64_t at[kMaxGridAxes];
    coordinates_of(grid_, query, at);
    for (int x = 0; x < axes_; ++x) {
      const float* terms = tables_[x].data + at[x] * tables_[x].row + tile_.keys.begin;
      add_run(tile_.keys.count, terms, 0, scores);
    }
  }

  PERCEIVER_INLINE void add_to_weight_gradients(int64_t i, float* grads) const {
    if (has_sums_) {
      spread(sums_, tile_.queries.begin + i, grads);
    }
  }

  PERCEIVER_INLINE void collect(int64_t i, const float* grads) const {
    if (axes_ == 0) {
      return;
    }
    const Matrix<float>* into = tile_.into.grad_tables;
    const int64_t query = tile_.queries.begin + i;
    if (grid_.side == GridSide::kKeys) {
      collect_lines(into, query, grads);
      return;
    }
    int64_t at[kMaxGridAxes];
    coordinates_of(grid_, query, at);
    for (int x = 0; x < axes_; ++x) {
      if (into[x].data != nullptr) {
        float* to = into[x].data + at[x] * into[x].row + tile_.keys.begin;
        add_run(tile_.keys.count, grads, 0, to);
      }
    }
  }

  /// Rows of tables lie a table's width apart: too far for the hardware to see them coming.
  PERCEIVER_INLINE void prefetch(int64_t i) const {
    if (axes_ == 0 || i >= tile_.queries.count) {
      return;
    }
    const int last = axes_ - 1;
    const int64_t query = tile_.queries.begin + i;
    const Matrix<float>& into = tile_.into.grad_tables[last];
    if (grid_.side == GridSide::kKeys) {
      for (int64_t l = 0; l < num_lines_; ++l) {
        const LineOfKeys& line = lines_[l];
        prefetch_run(tables_[last], query, line.at[last], line.length);
        prefetch_run(sums_[last], query, line.at[last], line.length);
        prefetch_run(into, query, line.at[last], line.length);
      }
      return;
    }
    const int64_t at = (grid_.begin + query) % grid_.extents[last];
    prefetch_run(tables_[last], at, tile_.keys.begin, tile_.keys.count);
    prefetch_run(into, at, tile_.keys.begin, tile_.keys.count);
  }

 private:
  template <typename T>
  PERCEIVER_INLINE static void prefetch_run(const Matrix<T>& matrix, int64_t row, int64_t first,
                                            int64_t count) {
    if (matrix.data != nullptr) {
      const T* run = matrix.data + row * matrix.row + first;
      for (int64_t c = 0; c < count; c += 16) {
        __builtin_prefetch(run + c);
      }
    }
  }

  /// row(j) += sum over axes of tables[x](query, coordinate x of key j); null tables are zero
  PERCEIVER_INLINE void spread(const Matrix<const float>* tables, int64_t query, float* row) const {
    const int last = axes_ - 1;
    for (int64_t l = 0; l < num_lines_; ++l) {
      const LineOfKeys& line = lines_[l];
      float others = 0;
      for (int x = 0; x < last; ++x) {
        others +=
            tables[x].data == nullptr ? 0 : tables[x].data[query * tables[x].row + line.at[x]];
      }
      float* to = row + line.start;
      if (tables[last].data != nullptr) {
        const float* from = tables[last].data + query * tables[last].row + line.at[last];
        add_run(line.length, from, others, to);
        continue;
      }
      for (int64_t c = 0; c < line.length; ++c) {
        to[c] += others;
      }
    }
  }

  PERCEIVER_INLINE void collect_lines(const Matrix<float>* into, int64_t query,
                                      const float* grads) const {
    const int last = axes_ - 1;
    for (int64_t l = 0; l < num_lines_; ++l) {
      const LineOfKeys& line = lines_[l];
      const float* from = grads + line.start;
      if (into[last].data != nullptr) {
        add_run(line.length, from, 0, into[last].data + query * into[last].row + line.at[last]);
      }
      const float sum = last > 0 ? sum_run(line.length, from) : 0;
      for (int x = 0; x < last; ++x) {
        if (into[x].data != nullptr) {
          into[x].data[query * into[x].row + line.at[x]] += sum;
        }
      }
    }
  }

  const BackwardTile& tile_;
  const TokenGrid<float>& grid_;
  int axes_;
  bool has_sums_ = false;
  int64_t num_lines_ = 0;
  LineOfKeys lines_[kMostBlock];
  Matrix<const float> tables_[kMaxGridAxes];
  Matrix<const float> sums_[kMaxGridAxes];
};

/// Sums over the rows of a tile, and over the keys of one row.
struct TileSums {
  alignas(64) float bias[kMostBlock] = {};
  alignas(64) float scale[kMostBlock] = {};
  float query_scale = 0;
};

/// Scores of one query to weights, weight gradients to gradients of the raw scores.
template <GridSide kSide, bool kSums>
PERCEIVER_INLINE void weigh_row(const BackwardTile& tile, int64_t i, float a_of_query,
                                TileSums& sums) {
  float* scores = tile.scores + i * tile.plan->tile_row;
  float* grads = tile.grads + i * tile.plan->tile_row;
  const V lse = broadcast(tile.query.lse[i]);
  const V loss = broadcast(tile.query.loss[i]);
  V query_scale{};
  for (int64_t c = 0; c < tile.keys.count; c += kLanes) {
    const V bias = load(tile.key.bias + c);
    V raw = load(scores + c);
    if (kSide == GridSide::kQueries) {  // a masked key's table may hold anything
      raw = select(bias > -kInfinity, raw, V{});
    }
    const V grad = load(grads + c);
    const V a = kSide == GridSide::kKeys ? load(tile.key.scale + c) : broadcast(a_of_query);
    const V score = kSide == GridSide::kNone ? raw : a * raw;
    const V p = exp_of(score + bias - lse);
    const V ds = p * ((kSide == GridSide::kKeys ? a * grad : grad) - loss);
    store(scores + c, kSide == GridSide::kKeys ? a * p : p);
    store(grads + c, kSide == GridSide::kNone ? ds : a * ds);
    if (kSums) {
      store(sums.bias + c, load(sums.bias + c) + ds);
      if (kSide == GridSide::kKeys) {
        store(sums.scale + c, load(sums.scale + c) + (p * grad + ds * raw));
      } else {
        query_scale += ds * raw;
      }
    }
  }
  sums.query_scale = kSums && kSide == GridSide::kQueries ? sum_of(query_scale) : 0;
}

template <GridSide kSide, bool kSums>
inline void weigh_tile(const BackwardTile& tile) {
  const TokenGrid<float>& grid = tile.args->forward.grid;
  const BackwardResults& into = tile.into;
  const float* query_scale = kSide == GridSide::kQueries && grid.scale != nullptr
                                 ? grid.scale + tile.batch * grid.scale_batch + tile.queries.begin
                                 : nullptr;
  const GridRows terms(tile);
  TileSums sums;
  for (int64_t i = 0; i < tile.queries.count; ++i) {
    float* grads = tile.grads + i * tile.plan->tile_row;
    terms.prefetch(i + 3);
    terms.add_to_scores(i, tile.scores + i * tile.plan->tile_row);
    terms.add_to_weight_gradients(i, grads);
    weigh_row<kSide, kSums>(tile, i, query_scale == nullptr ? 1 : query_scale[i], sums);
    terms.collect(i, grads);
    if (kSums && kSide == GridSide::kQueries && into.grad_scale != nullptr) {
      into.grad_scale[tile.queries.begin + i] += sums.query_scale;
    }
  }
  if (kSums && kSide == GridSide::kKeys && into.grad_scale != nullptr) {
    add_run(tile.keys.count, sums.scale, 0, into.grad_scale + tile.keys.begin);
  }
  if (kSums && into.grad_key_bias != nullptr) {
    add_run(tile.keys.count, sums.bias, 0, into.grad_key_bias + tile.keys.begin);
  }
}

template <GridSide kSide>
inline void weigh(const BackwardTile& tile) {
  if (tile.into.grad_scale != nullptr || tile.into.grad_key_bias != nullptr) {
    weigh_tile<kSide, true>(tile);
  } else {
    weigh_tile<kSide, false>(tile);
  }
}

inline void run_backward_tile(const BackwardTile& tile) {
  const AttendForward<float>& forward = tile.args->forward;
  const AttendShape& shape = forward.shape;
  const BackwardPlan& plan = *tile.plan;
  const int64_t queries = tile.queries.count, keys = tile.keys.count;
  const Rows<const float>& grad_out = tile.args->grad_out;
  const float* grad_out_rows = row_of(grad_out, tile.batch, tile.head, tile.queries.begin);
  multiply<Left::kRows>({queries, keys, shape.qk_dim, tile.query.q, shape.qk_dim,
                         tile.key.k_transposed, tile.scores, plan.tile_row, false});
  multiply<Left::kRows>({queries, keys, shape.v_dim, grad_out_rows, grad_out.row,
                         tile.key.v_transposed, tile.grads, plan.tile_row, false});
  switch (forward.grid.side) {
    case GridSide::kNone:
      weigh<GridSide::kNone>(tile);
      break;
    case GridSide::kKeys:
      weigh<GridSide::kKeys>(tile);
      break;
    case GridSide::kQueries:
      weigh<GridSide::kQueries>(tile);
      break;
  }
  if (tile.into.grad_v != nullptr) {
    multiply<Left::kColumns>({keys, shape.v_dim, queries, tile.scores, plan.tile_row,
                              tile.query.grad_out_panels, tile.into.grad_v, plan.v_width, true});
  }
  if (tile.into.grad_q != nullptr) {
    multiply<Left::kRows>({queries, shape.qk_dim, keys, tile.grads, plan.tile_row,
                           tile.key.k_panels, tile.into.grad_q, plan.qk_width, true});
  }
  if (tile.into.grad_k != nullptr) {
    multiply<Left::kColumns>({keys, shape.qk_dim, queries, tile.grads, plan.tile_row,
                              tile.query.q_panels, tile.into.grad_k, plan.qk_width, true});
  }
}

/// Packs the tile's queries and what backward needs of their results.
inline void pack_queries(const BackwardTile& tile) {
  const AttendForward<float>& forward = tile.args->forward;
  const AttendShape& shape = forward.shape;
  const int64_t count = tile.queries.count;
  const Rows<const float>& grad_out = tile.args->grad_out;
  const int64_t first_row =
      (tile.batch * shape.heads + tile.head) * shape.queries + tile.queries.begin;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t query = tile.queries.begin + i;
    const float* q = row_of(forward.q, tile.batch, tile.head, query);
    float* to = tile.query.q + i * shape.qk_dim;
    for (int64_t c = 0; c < shape.qk_dim; ++c) {
      to[c] = forward.scale * q[c];
    }
    const float lse = forward.lse[first_row + i];
    tile.query.lse[i] = lse == -kInfinity ? kInfinity : lse;
    float loss = dot_run(shape.v_dim, row_of(grad_out, tile.batch, tile.head, query),
                         row_of(forward.out, tile.batch, tile.head, query));
    for (int x = 0; x < forward.grid.num_axes && forward.grid.side == GridSide::kKeys; ++x) {
      if (tile.args->grad_sums[x].data != nullptr) {
        loss += dot_run(forward.grid.extents[x],
                        row_of(tile.args->grad_sums[x], tile.batch, tile.head, query),
                        row_of(forward.sums[x], tile.batch, tile.head, query));
      }
    }
    const float* grad_lse = tile.args->grad_lse;
    tile.query.loss[i] = grad_lse == nullptr ? loss : loss - grad_lse[first_row + i];
  }
  pack_rows(tile.query.q, shape.qk_dim, count, shape.qk_dim, nullptr, tile.query.q_panels);
  pack_rows(row_of(grad_out, tile.batch, tile.head, tile.queries.begin), grad_out.row, count,
            shape.v_dim, nullptr, tile.query.grad_out_panels);
}

inline void pack_keys(const BackwardTile& tile) {
  const AttendForward<float>& forward = tile.args->forward;
  const AttendShape& shape = forward.shape;
  const int64_t begin = tile.keys.begin, count = tile.keys.count;
  const uint8_t* keep = forward.key_mask == nullptr
                            ? nullptr
                            : forward.key_mask + tile.batch * forward.key_mask_batch + begin;
  const TokenGrid<float>& grid = forward.grid;
  const bool scaled = grid.side == GridSide::kKeys && grid.scale != nullptr;
  for (int64_t j = 0; j < tile.plan->key_block; ++j) {
    const bool valid = j < count && (keep == nullptr || keep[j] != 0);
    const int64_t row = tile.batch * shape.heads + tile.head;
    const float bias =
        forward.key_bias == nullptr || !valid ? 0 : forward.key_bias[row * shape.keys + begin + j];
    tile.key.bias[j] = valid ? bias : -kInfinity;
    tile.key.scale[j] = scaled && valid ? grid.scale[tile.batch * grid.scale_batch + begin + j] : 1;
  }
  const float* k = row_of(forward.k, tile.batch, tile.head, begin);
  const float* v = row_of(forward.v, tile.batch, tile.head, begin);
  pack_transposed(k, forward.k.row, count, shape.qk_dim, keep, tile.zeros, tile.key.k_transposed);
  pack_rows(k, forward.k.row, count, shape.qk_dim, keep, tile.key.k_panels);
  pack_transposed(v, forward.v.row, count, shape.v_dim, keep, tile.zeros, tile.key.v_transposed);
}

inline void add_rows(int64_t rows, int64_t width, float factor, const float* x, int64_t x_row,
                     float* y, int64_t y_row) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = x + i * x_row;
    float* to = y + i * y_row;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      store(to + c, load(to + c) + factor * load(from + c));
    }
    for (; c < width; ++c) {
      to[c] += factor * from[c];
    }
  }
}

}  // namespace
}  // namespace perceiver::kernels
