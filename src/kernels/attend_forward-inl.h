#pragma once

#include "kernels/kernel_table.h"
#include "kernels/tile-inl.h"

// The tiled forward pass, one text for every instruction set (see tile-inl.h). One item is some
// queries of one head over some keys: for each block of keys, packed once, and each tile of
// queries, a tile of scores is made, turned into weights and multiplied with the values.
//
// Scores are kept in units of log 2: the queries are multiplied by scale * log2(e), tables and
// key biases by log2(e), so that a weight is 2^(score - maximum).

namespace perceiver::kernels {
namespace {

/// What the two products multiply. The text below makes floats, then lets this narrow them in
/// place to the words its product reads; here they stay floats. bfloat16-inl.h and amx-inl.h have
/// the others.
struct Floats {
  /// Whether weights may be made of scores that have not left the registers.
  static constexpr bool kWeighsInRegisters = true;
  static void begin_item() {}
  static void end_item() {}
  /// Words that hold k numbers, at most k.
  static PERCEIVER_INLINE int64_t words(int64_t k) { return k; }
  static PERCEIVER_INLINE void narrow_row(float* /*row*/, int64_t /*k*/) {}
  /// @param packed  of [k, n] floats
  static PERCEIVER_INLINE void narrow_panels(float* /*packed*/, int64_t /*k*/, int64_t /*n*/) {}
  static PERCEIVER_INLINE void product(const Product& product) { multiply<Left::kRows>(product); }
};

// Chosen with bench/kernels on AVX2 (one thread, GFLOP/s, keys of a block 128 / 256 / 384 / 512:
// attend_encode_flow 60 / 66 / 67 / 68, attend_decode_flow 77 / 81 / 81 / 81, the others level; 24
// or 96 queries a tile are within 3 % of 48). 48 rows are whole strips for every kTileRows.
constexpr int64_t kKeyBlock = 512;
constexpr int64_t kQueryTile = 48;
/// Products may write this many rows at a time, beyond the last query (amx-inl.h).
constexpr int64_t kTileRowsMost = 16;
/// Rows of scores are kept off multiples of 4 KiB, where they would share cache sets.
constexpr int64_t kScoreStride = kKeyBlock + 16;
constexpr float kLog2E = 1.44269504088896341f;
constexpr double kLn2 = 0.693147180559945309417;
/// A row's maximum may lag behind by a factor of 2^kSlack in the weights before everything summed
/// so far is rescaled: far from overflow, and most rows are then rescaled only once.
constexpr float kSlack = 10.0f;
/// Scores so near to what is subtracted from them need not be looked through for their maximum:
/// weights of 2^-40 to 2^40 lose nothing, and leave their sums far from overflow.
constexpr float kNear = 40.0f;

PERCEIVER_INLINE int64_t padded_stride(int64_t width) {
  const int64_t stride = round_up(width, 16);
  return stride % 128 == 0 ? stride + 16 : stride;
}

struct Buffers {
  float* out;          ///< [queries, out_stride] sums of weight * value
  float* maximum;      ///< [queries] what is subtracted from the scores
  float* total;        ///< [queries] sums of weights
  float* queries;      ///< [kQueryTile, query_stride], scaled
  float* scores;       ///< [kQueryTile, kScoreStride], then weights in place
  float* keys;         ///< packed [qk_dim, block]
  float* values;       ///< packed [block, v_dim]
  float* zeros;        ///< [max(qk_dim + kLanes, kScoreStride)]
  float* key_bias;     ///< [kScoreStride], -inf for masked and missing keys
  float* key_scale;    ///< [kScoreStride], 0 for masked keys
  float* outer_terms;  ///< [kScoreStride] sum of the outer axes' table rows (grid of queries)
  int64_t out_stride, query_stride, floats;
};

/// Lays the buffers out from `p` on; with p null only counts.
inline Buffers lay_out(const AttendShape& shape, int64_t queries, float* p) {
  Buffers buffers{};
  buffers.out_stride = padded_stride(shape.v_dim);
  buffers.query_stride = padded_stride(shape.qk_dim);
  const auto take = [&buffers, p](int64_t floats) {
    float* start = p == nullptr ? nullptr : p + buffers.floats;
    buffers.floats += round_up(floats, 16);
    return start;
  };
  buffers.out = take(round_up(queries, kTileRowsMost) * buffers.out_stride);
  buffers.maximum = take(queries);
  buffers.total = take(queries);
  buffers.queries = take(kQueryTile * buffers.query_stride);
  buffers.scores = take(kQueryTile * kScoreStride);
  buffers.keys = take(packed_size(shape.qk_dim, kKeyBlock));
  buffers.values = take(packed_size(kKeyBlock, shape.v_dim));
  buffers.zeros = take(-lesser(-shape.qk_dim - kLanes, -kScoreStride));
  buffers.key_bias = take(kScoreStride);
  buffers.key_scale = take(kScoreStride);
  buffers.outer_terms = take(kScoreStride);
  return buffers;
}

/// Keys of one block whose tokens differ only on the grid's last axis.
struct Run {
  int64_t first, keys;                ///< within the block
  int64_t coordinates[kMaxGridAxes];  ///< of the first key
};

struct Block {
  int64_t first, keys;
  float longest;  ///< squared length of the longest key
  bool biased;    ///< key_bias must be applied
  bool empty;     ///< no key is valid
  int num_runs;
  Run runs[kKeyBlock];
};

/// The axis along which neighbouring tokens are neighbours: the last that is longer than 1.
/// -1 where there is none.
inline int inner_axis(const TokenGrid<float>& grid) {
  int axis = grid.num_axes - 1;
  while (axis >= 0 && grid.extents[axis] == 1) {
    --axis;
  }
  return axis;
}

inline void coordinates_of(const TokenGrid<float>& grid, int64_t token, int64_t* coordinates) {
  int64_t index = grid.begin + token;
  for (int x = grid.num_axes - 1; x >= 0; --x) {
    coordinates[x] = index % grid.extents[x];
    index /= grid.extents[x];
  }
}

template <typename T>
PERCEIVER_INLINE T* row_at(const Rows<T>& rows, const ForwardItem& item, int64_t i) {
  return rows.data + item.batch * rows.batch + item.head * rows.head + i * rows.row;
}

/// One item on its way. Rows are counted from the item's first query.
struct Forward {
  const AttendForward<float>& args;
  const ForwardItem& item;
  Buffers buffers;
  int inner;  ///< inner_axis of the grid
  Block block;
};

// ---- blocks of keys ----

inline void find_runs(Forward& f) {
  const TokenGrid<float>& grid = f.args.grid;
  f.block.num_runs = 0;
  for (int64_t j = 0; j < f.block.keys;) {
    Run& run = f.block.runs[f.block.num_runs++];
    coordinates_of(grid, f.block.first + j, run.coordinates);
    run.first = j;
    run.keys = f.block.keys - j;
    if (f.inner >= 0) {
      run.keys = lesser(run.keys, grid.extents[f.inner] - run.coordinates[f.inner]);
    }
    j += run.keys;
  }
}

inline const uint8_t* mask_of(const Forward& f) {
  const uint8_t* mask = f.args.key_mask;
  return mask == nullptr ? nullptr : mask + f.item.batch * f.args.key_mask_batch + f.block.first;
}

inline void prepare_key_terms(Forward& f) {
  const AttendForward<float>& args = f.args;
  const uint8_t* mask = mask_of(f);
  const int64_t row = f.item.batch * args.shape.heads + f.item.head;
  const float* bias =
      args.key_bias == nullptr ? nullptr : args.key_bias + row * args.shape.keys + f.block.first;
  const bool on_grid = args.grid.side == GridSide::kKeys;
  const float* scale = !on_grid || args.grid.scale == nullptr
                           ? nullptr
                           : args.grid.scale + f.item.batch * args.grid.scale_batch + f.block.first;
  f.block.biased = mask != nullptr || bias != nullptr || f.block.keys % kLanes != 0;
  f.block.empty = true;
  // One vector more than the keys need: the last vector of a run may begin anywhere, and what it
  // reads behind the keys must be numbers, though it counts for nothing.
  for (int64_t j = 0; j < round_up(f.block.keys, kLanes) + kLanes; ++j) {
    const bool present = j < f.block.keys && (mask == nullptr || mask[j] != 0);
    f.buffers.key_bias[j] = !present ? -kInfinity : bias == nullptr ? 0.0f : bias[j] * kLog2E;
    f.block.empty = f.block.empty && f.buffers.key_bias[j] == -kInfinity;
    f.buffers.key_scale[j] = !present ? 0.0f : scale == nullptr ? 1.0f : scale[j];
  }
  if (on_grid) {
    find_runs(f);
  }
}

/// Of the block's packed keys [qk_dim, keys].
inline float longest_key(const float* packed, int64_t k, int64_t keys) {
  V longest{};
  for_panels(
      keys, [&]<int kVectors>(int64_t column) __attribute__((always_inline)) {
        V squares[kVectors] = {};
        const float* p = packed + column * k;
        for (int64_t c = 0; c < k; ++c) {
          for (V& sum : squares) {
            const V x = load(p);
            sum += x * x;
            p += kLanes;
          }
        }
        for (const V& sum : squares) {
          longest = max(sum, longest);
        }
      });
  return max_of(longest);
}

/// Masked keys and values are packed as zeros: 0 times what may stand there would not be 0.
template <typename Operands>
inline void pack_block(Forward& f, int64_t first, int64_t keys) {
  const AttendForward<float>& args = f.args;
  f.block.first = first;
  f.block.keys = keys;
  pack_transposed(row_at(args.k, f.item, first), args.k.row, keys, args.shape.qk_dim, mask_of(f),
                  f.buffers.zeros, f.buffers.keys);
  pack_rows(row_at(args.v, f.item, first), args.v.row, keys, args.shape.v_dim, mask_of(f),
            f.buffers.values);
  if constexpr (Operands::kWeighsInRegisters) {
    f.block.longest = longest_key(f.buffers.keys, args.shape.qk_dim, keys);
  }
  Operands::narrow_panels(f.buffers.keys, args.shape.qk_dim, keys);
  Operands::narrow_panels(f.buffers.values, keys, args.shape.v_dim);
  prepare_key_terms(f);
}

// ---- scores ----

template <typename Operands>
inline void load_queries(const Forward& f, int64_t first, int64_t rows) {
  const float factor = f.args.scale * kLog2E;
  const int64_t width = f.args.shape.qk_dim;
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = row_at(f.args.q, f.item, f.item.first_query + first + r);
    float* to = f.buffers.queries + r * f.buffers.query_stride;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      store(to + c, load(from + c) * factor);
    }
    if (c < width) {
      store_first(to + c, load_first(from + c, width - c) * factor, width - c);
    }
    Operands::narrow_row(to, width);
  }
}

template <bool kBiased>
PERCEIVER_INLINE V add_bias(V score, const float* key_bias) {
  if constexpr (kBiased) {
    // Selected rather than added: a masked key's table may hold anything.
    const V bias = load(key_bias);
    return select(bias == -kInfinity, bias, score + bias);
  }
  return score;
}

enum class RowTerms { kNone, kScale, kTable };

/// Finishes one row of scores whose keys are not on a grid: s = a * (s + outer + inner) + bias.
/// @param inner   [keys] or null
/// @return        the row's maximum
template <RowTerms kTerms, bool kBiased>
PERCEIVER_NOINLINE float score_row(const Forward& f, float a, const float* inner, float* scores) {
  V highest = broadcast(-kInfinity);
  const auto finish = [&](int64_t j, V term) __attribute__((always_inline)) {
    V s = load(scores + j);
    if constexpr (kTerms == RowTerms::kTable) {
      s += term * kLog2E + load(f.buffers.outer_terms + j);
    }
    if constexpr (kTerms != RowTerms::kNone) {
      s *= a;
    }
    s = add_bias<kBiased>(s, f.buffers.key_bias + j);
    highest = max(highest, s);
    if constexpr (kTerms != RowTerms::kNone || kBiased) {
      store(scores + j, s);
    }
  };
  const int64_t keys = f.block.keys;
  int64_t j = 0;
  for (; j + kLanes <= keys; j += kLanes) {
    finish(j, kTerms == RowTerms::kTable ? load(inner + j) : V{});
  }
  if (j < keys) {
    finish(j, kTerms == RowTerms::kTable ? load_first(inner + j, keys - j) : V{});
  }
  return max_of(highest);
}

/// Sum of the outer axes' table rows over the block's keys, in units of log 2.
inline void combine_outer_terms(const Forward& f, const int64_t* coordinates) {
  const TokenGrid<float>& grid = f.args.grid;
  float* terms = f.buffers.outer_terms;
  for (int64_t j = 0; j < f.block.keys; ++j) {
    terms[j] = 0;
  }
  for (int x = 0; x < grid.num_axes; ++x) {
    if (x == f.inner) {
      continue;
    }
    const float* row = row_at(grid.tables[x], f.item, coordinates[x]) + f.block.first;
    int64_t j = 0;
    for (; j + kLanes <= f.block.keys; j += kLanes) {
      store(terms + j, load(row + j) * kLog2E + load(terms + j));
    }
    for (; j < f.block.keys; ++j) {
      terms[j] += row[j] * kLog2E;
    }
  }
}

/// Where the row's query stands on its grid; combines the outer axes' rows when they changed.
struct QueryPlace {
  float scale = 1;
  const float* inner = nullptr;
  int64_t coordinates[kMaxGridAxes] = {};
  bool known = false;
};

inline void find_place(const Forward& f, int64_t query, QueryPlace& place) {
  const TokenGrid<float>& grid = f.args.grid;
  if (grid.scale != nullptr) {
    place.scale = grid.scale[f.item.batch * grid.scale_batch + query];
  }
  int64_t coordinates[kMaxGridAxes];
  coordinates_of(grid, query, coordinates);
  bool same = place.known;
  for (int x = 0; x < grid.num_axes; ++x) {
    same = same && (x == f.inner || coordinates[x] == place.coordinates[x]);
    place.coordinates[x] = coordinates[x];
  }
  if (!same) {
    combine_outer_terms(f, coordinates);
    place.known = true;
  }
  place.inner = f.inner < 0
                    ? f.buffers.zeros
                    : row_at(grid.tables[f.inner], f.item, coordinates[f.inner]) + f.block.first;
}

/// Rows of tables and sums lie in far apart pages and are read a block at a time: too short for
/// the CPU to see a pattern, so the next query's are fetched while this one's are used.
PERCEIVER_INLINE void prefetch(const float* p) {
  __builtin_prefetch(p);
}

struct InnerTable {
  const float* row;  ///< of the inner axis, from the run's first coordinate on
  int64_t stride;    ///< to the next query's
};

/// One run of a row of scores: s = a(j) * (s + outer + inner(x(j))) + bias.
template <bool kBiased, bool kInner>
PERCEIVER_NOINLINE V score_run(const Forward& f, const Run& run, InnerTable inner, float outer,
                               float* row) {
  const float* key_scale = f.buffers.key_scale + run.first;
  const float* key_bias = f.buffers.key_bias + run.first;
  float* scores = row + run.first;
  V highest = broadcast(-kInfinity);
  const auto finish = [&](int64_t t, V term) __attribute__((always_inline)) {
    const V s = load(scores + t) + (kInner ? term * kLog2E + outer : broadcast(outer));
    return add_bias<kBiased>(load(key_scale + t) * s, key_bias + t);
  };
  int64_t t = 0;
  for (; t + kLanes <= run.keys; t += kLanes) {
    V term{};
    if constexpr (kInner) {
      term = load(inner.row + t);
      prefetch(inner.row + t + inner.stride);
    }
    const V s = finish(t, term);
    highest = max(highest, s);
    store(scores + t, s);
  }
  if (t < run.keys) {
    const int64_t left = run.keys - t;
    const V s = finish(t, kInner ? load_first(inner.row + t, left) : V{});
    highest = max(highest, select(first_lanes(left), s, broadcast(-kInfinity)));
    store_first(scores + t, s, left);
  }
  return highest;
}

/// Finishes one row of scores over keys on a grid. @return the row's maximum
template <bool kBiased>
inline float score_row_on_grid(const Forward& f, int64_t query, float* scores) {
  const TokenGrid<float>& grid = f.args.grid;
  V highest = broadcast(-kInfinity);
  for (int n = 0; n < f.block.num_runs; ++n) {
    const Run& run = f.block.runs[n];
    float outer = 0;
    for (int x = 0; x < grid.num_axes; ++x) {
      if (x != f.inner) {
        const float* term = row_at(grid.tables[x], f.item, query) + run.coordinates[x];
        outer += *term * kLog2E;
        prefetch(term + grid.tables[x].row);
      }
    }
    if (f.inner < 0) {
      highest = max(highest, score_run<kBiased, false>(f, run, {nullptr, 0}, outer, scores));
      continue;
    }
    const Rows<const float>& table = grid.tables[f.inner];
    const float* inner = row_at(table, f.item, query) + run.coordinates[f.inner];
    highest = max(highest, score_run<kBiased, true>(f, run, {inner, table.row}, outer, scores));
  }
  return max_of(highest);
}

// ---- weights ----

inline void scale_row(float* row, int64_t width, float factor) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    store(row + c, load(row + c) * factor);
  }
  for (; c < width; ++c) {
    row[c] *= factor;
  }
}

inline void scale_sums(const Forward& f, int64_t query, float factor) {
  const TokenGrid<float>& grid = f.args.grid;
  for (int x = 0; grid.side == GridSide::kKeys && x < grid.num_axes; ++x) {
    if (f.args.sums[x].data != nullptr) {
      scale_row(row_at(f.args.sums[x], f.item, query), grid.extents[x], factor);
    }
  }
}

/// Raises the row's maximum if `highest` is far above it, and rescales what is summed so far.
inline void update_maximum(Forward& f, int64_t r, float highest) {
  float& maximum = f.buffers.maximum[r];
  if (!(highest > maximum + kSlack)) {
    return;
  }
  if (f.buffers.total[r] != 0) {
    const V factor = exp2_of(broadcast(maximum - highest));
    f.buffers.total[r] *= factor[0];
    scale_row(f.buffers.out + r * f.buffers.out_stride, f.args.shape.v_dim, factor[0]);
    scale_sums(f, f.item.first_query + r, factor[0]);
  }
  maximum = highest;
}

/// Scores to weights in place. @return their sum
PERCEIVER_NOINLINE float weigh_row(const Forward& f, float maximum, float* scores) {
  const auto weigh = [&](int64_t j) __attribute__((always_inline)) {
    const V p = exp2_of(load(scores + j) - maximum);
    store(scores + j, p);
    return p;
  };
  V even{}, odd{};
  int64_t j = 0;
  for (; j + kLanes < f.block.keys; j += 2 * kLanes) {
    even += weigh(j);
    odd += weigh(j + kLanes);
  }
  if (j < f.block.keys) {
    even += weigh(j);
  }
  return sum_of(even + odd);
}

struct WeightTotals {
  V plain;   ///< of the weights
  V scaled;  ///< of the weights times token scales
};

struct InnerSums {
  float* row;      ///< of the inner axis, from the run's first coordinate on
  int64_t stride;  ///< to the next query's
};

/// One run of scores to weights times token scales, in place and into the inner axis' sums.
template <bool kSums>
PERCEIVER_NOINLINE void weigh_run(const Run& run, const float* key_scale, float maximum,
                                  InnerSums sums, float* row, WeightTotals& totals) {
  float* scores = row + run.first;
  key_scale += run.first;
  V plain{}, scaled{};
  int64_t t = 0;
  for (; t + kLanes <= run.keys; t += kLanes) {
    const V p = exp2_of(load(scores + t) - maximum);
    const V w = p * load(key_scale + t);
    store(scores + t, w);
    plain += p;
    scaled += w;
    if constexpr (kSums) {
      store(sums.row + t, load(sums.row + t) + w);
      prefetch(sums.row + t + sums.stride);
    }
  }
  if (t < run.keys) {
    const int64_t left = run.keys - t;
    const V p = select(first_lanes(left), exp2_of(load(scores + t) - maximum), V{});
    const V w = p * load(key_scale + t);
    store_first(scores + t, w, left);
    plain += p;
    scaled += w;
    if constexpr (kSums) {
      store_first(sums.row + t, load_first(sums.row + t, left) + w, left);
    }
  }
  totals.plain += plain;
  totals.scaled = scaled;
}

/// Scores to weights times token scales in place, and these into the sums along the axes.
/// @return the sum of the weights without token scales
inline float weigh_row_on_grid(const Forward& f, int64_t query, float maximum, float* scores) {
  const TokenGrid<float>& grid = f.args.grid;
  WeightTotals totals{};
  for (int n = 0; n < f.block.num_runs; ++n) {
    const Run& run = f.block.runs[n];
    if (f.inner >= 0 && f.args.sums[f.inner].data != nullptr) {
      const Rows<float>& sums = f.args.sums[f.inner];
      float* inner = row_at(sums, f.item, query) + run.coordinates[f.inner];
      weigh_run<true>(run, f.buffers.key_scale, maximum, {inner, sums.row}, scores, totals);
    } else {
      weigh_run<false>(run, f.buffers.key_scale, maximum, {nullptr, 0}, scores, totals);
    }
    const float run_total = sum_of(totals.scaled);
    for (int x = 0; x < grid.num_axes; ++x) {
      if (x != f.inner && f.args.sums[x].data != nullptr) {
        float* sum = row_at(f.args.sums[x], f.item, query) + run.coordinates[x];
        *sum += run_total;
        prefetch(sum + f.args.sums[x].row);
      }
    }
  }
  return sum_of(totals.plain);
}

/// Whether scores are products and biases alone.
inline bool has_plain_scores(const TokenGrid<float>& grid) {
  return grid.side == GridSide::kNone ||
         (grid.side == GridSide::kQueries && grid.num_axes == 0 && grid.scale == nullptr);
}

template <bool kBiased>
inline float finish_scores(const Forward& f, int64_t query, QueryPlace& place, float* scores) {
  const TokenGrid<float>& grid = f.args.grid;
  if (grid.side == GridSide::kKeys) {
    return score_row_on_grid<kBiased>(f, query, scores);
  }
  if (has_plain_scores(grid)) {
    return score_row<RowTerms::kNone, kBiased>(f, 1, nullptr, scores);
  }
  find_place(f, query, place);
  if (grid.num_axes == 0) {
    return score_row<RowTerms::kScale, kBiased>(f, place.scale, nullptr, scores);
  }
  return score_row<RowTerms::kTable, kBiased>(f, place.scale, place.inner, scores);
}

/// Row r of the item: its scores become weights, its running softmax is brought up to date.
inline void weigh(Forward& f, int64_t r, QueryPlace& place, float* scores) {
  const int64_t query = f.item.first_query + r;
  if (f.block.empty) {
    for (int64_t j = 0; j < f.block.keys; ++j) {
      scores[j] = 0;
    }
    return;
  }
  const float highest = f.block.biased ? finish_scores<true>(f, query, place, scores)
                                       : finish_scores<false>(f, query, place, scores);
  update_maximum(f, r, highest);
  const float maximum = f.buffers.maximum[r];
  f.buffers.total[r] += f.args.grid.side == GridSide::kKeys
                            ? weigh_row_on_grid(f, query, maximum, scores)
                            : weigh_row(f, maximum, scores);
}

// ---- weights without looking at scores ----

PERCEIVER_INLINE float squared_length(const float* x, int64_t width) {
  V squares{};
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    const V part = load(x + c);
    squares += part * part;
  }
  if (c < width) {
    const V part = load_first(x + c, width - c);
    squares += part * part;
  }
  return sum_of(squares);
}

/// Whether all scores of the tile are plain products and near to what will be subtracted from them,
/// by Cauchy and Schwarz. Rows that have nothing yet then begin with 0.
inline bool all_near(Forward& f, int64_t first, int64_t rows) {
  if (f.block.biased || f.block.empty || !has_plain_scores(f.args.grid)) {
    return false;
  }
  float longest = 0, farthest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float squares =
        squared_length(f.buffers.queries + r * f.buffers.query_stride, f.args.shape.qk_dim);
    const float maximum = f.buffers.maximum[first + r];
    const float distance = maximum == -kInfinity ? 0 : maximum < 0 ? -maximum : maximum;
    longest = squares > longest ? squares : longest;
    farthest = distance > farthest ? distance : farthest;
  }
  const float left = kNear - farthest;
  if (!(left > 0 && longest * f.block.longest < left * left)) {  // also where either is NaN
    return false;
  }
  for (int64_t r = first; r < first + rows; ++r) {
    f.buffers.maximum[r] = f.buffers.maximum[r] == -kInfinity ? 0 : f.buffers.maximum[r];
  }
  return true;
}

/// kRows rows of queries times one panel of keys, straight to weights and these into `totals`.
template <int kRows, int kVectors>
PERCEIVER_INLINE void weigh_tile(const Forward& f, int64_t first, int64_t r, int64_t column,
                                 V* totals) {
  const Buffers& buffers = f.buffers;
  const int64_t k = f.args.shape.qk_dim;
  V sum[kRows][kVectors] = {};
  add_products<FloatWords, Left::kRows>(k, buffers.queries + r * buffers.query_stride,
                                        buffers.query_stride, buffers.keys + column * k, sum);
  float* weights = buffers.scores + r * kScoreStride + column;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const V maximum = broadcast(buffers.maximum[first + r + i]);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const V weight = exp2_within(sum[i][v] - maximum);
      store(weights + i * kScoreStride + v * kLanes, weight);
      totals[r + i] += weight;
    }
  }
}

/// The tile's weights, where all_near() says so.
PERCEIVER_NOINLINE void weigh_near(Forward& f, int64_t first, int64_t rows) {
  V totals[kQueryTile] = {};
  for_panels(
      f.block.keys, [&]<int kVectors>(int64_t column) __attribute__((always_inline)) {
        for_strips(
            rows, [&]<int kRows>(int64_t r) __attribute__((always_inline)) {
              weigh_tile<kRows, kVectors>(f, first, r, column, totals);
            });
      });
  for (int64_t r = 0; r < rows; ++r) {
    f.buffers.total[first + r] += sum_of(totals[r]);
  }
}

/// The tile's weights, whatever its scores.
template <typename Operands>
inline void weigh_any(Forward& f, int64_t first, int64_t rows) {
  const Buffers& buffers = f.buffers;
  Operands::product({.rows = rows,
                     .n = f.block.keys,
                     .k = Operands::words(f.args.shape.qk_dim),
                     .a = buffers.queries,
                     .lda = buffers.query_stride,
                     .b = buffers.keys,
                     .c = buffers.scores,
                     .ldc = kScoreStride,
                     .accumulate = false});
  QueryPlace place;
  for (int64_t r = 0; r < rows; ++r) {
    float* scores = buffers.scores + r * kScoreStride;
    weigh(f, first + r, place, scores);
    Operands::narrow_row(scores, f.block.keys);
  }
}

/// Rows [first, first + rows) of the item against the packed block.
template <typename Operands>
inline void attend_tile(Forward& f, int64_t first, int64_t rows) {
  const AttendShape& shape = f.args.shape;
  Buffers& buffers = f.buffers;
  load_queries<Operands>(f, first, rows);
  bool weighed = false;
  if constexpr (Operands::kWeighsInRegisters) {
    weighed = all_near(f, first, rows);
    if (weighed) {
      weigh_near(f, first, rows);
    }
  }
  if (!weighed) {
    weigh_any<Operands>(f, first, rows);
  }
  Operands::product({.rows = rows,
                     .n = shape.v_dim,
                     .k = Operands::words(f.block.keys),
                     .a = buffers.scores,
                     .lda = kScoreStride,
                     .b = buffers.values,
                     .c = buffers.out + first * buffers.out_stride,
                     .ldc = buffers.out_stride,
                     .accumulate = true});
}

// ---- an item ----

inline void fill(float* p, int64_t n, float x) {
  for (int64_t i = 0; i < n; ++i) {
    p[i] = x;
  }
}

inline void start_rows(Forward& f) {
  fill(f.buffers.out, f.item.queries * f.buffers.out_stride, 0);
  fill(f.buffers.maximum, f.item.queries, -kInfinity);
  fill(f.buffers.total, f.item.queries, 0);
  fill(f.buffers.zeros, -lesser(-f.args.shape.qk_dim - kLanes, -kScoreStride), 0);
  const TokenGrid<float>& grid = f.args.grid;
  for (int x = 0; grid.side == GridSide::kKeys && x < grid.num_axes; ++x) {
    for (int64_t r = 0; f.args.sums[x].data != nullptr && r < f.item.queries; ++r) {
      fill(row_at(f.args.sums[x], f.item, f.item.first_query + r), grid.extents[x], 0);
    }
  }
}

inline void finish_row(const Forward& f, int64_t r) {
  const AttendShape& shape = f.args.shape;
  const int64_t query = f.item.first_query + r;
  const float total = f.buffers.total[r];
  const float factor = total == 0 ? 0.0f : 1 / total;
  const float* from = f.buffers.out + r * f.buffers.out_stride;
  float* to = row_at(f.args.out, f.item, query);
  int64_t c = 0;
  for (; c + kLanes <= shape.v_dim; c += kLanes) {
    store(to + c, load(from + c) * factor);
  }
  for (; c < shape.v_dim; ++c) {
    to[c] = from[c] * factor;
  }
  scale_sums(f, query, factor);
  if (f.args.lse != nullptr) {
    const double log2_total = __builtin_log2(static_cast<double>(total));
    const double lse = (static_cast<double>(f.buffers.maximum[r]) + log2_total) * kLn2;
    f.args.lse[(f.item.batch * shape.heads + f.item.head) * shape.queries + query] =
        total == 0 ? -kInfinity : static_cast<float>(lse);
  }
}

template <typename Operands>
inline void run_item(const AttendForward<float>& args, const ForwardItem& item, float* scratch) {
  Forward f{args, item, lay_out(args.shape, item.queries, scratch), inner_axis(args.grid), {}};
  start_rows(f);
  Operands::begin_item();
  for (int64_t done = 0; done < item.keys; done += kKeyBlock) {
    pack_block<Operands>(f, item.first_key + done, lesser(kKeyBlock, item.keys - done));
    for (int64_t first = 0; first < item.queries; first += kQueryTile) {
      attend_tile<Operands>(f, first, lesser(kQueryTile, item.queries - first));
    }
  }
  Operands::end_item();
  for (int64_t r = 0; r < item.queries; ++r) {
    finish_row(f, r);
  }
}

inline int64_t scratch_floats(const AttendShape& shape, int64_t queries) {
  return lay_out(shape, queries, nullptr).floats;
}

}  // namespace
}  // namespace perceiver::kernels
