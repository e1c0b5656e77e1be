#include "perceiver/kernels/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <omp.h>

#include "kernels/kernel_table.h"
#include "kernels/scratch.h"

// How a call is divided among threads. The division depends on shapes and the number of threads
// alone, and items never share a result, so that bits do not depend on who computes what.

namespace perceiver::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
/// Queries of an item share one packing of the keys, but its sums should stay near. Chosen with
/// bench/kernels (one thread, GFLOP/s, 192 / 512 / 1024 queries an item: attend_encode_flow
/// 66 / 68 / 66; 192 / 384 / 768: attend_decode_flow 75 / 78 / 81).
struct ItemLimit {
  int64_t queries, floats;
};
constexpr ItemLimit kMost{576, 262144};
/// Sums of this many floats stay in the second cache whatever the number of queries: narrow heads
/// pack their keys for up to twice kMost.queries.
constexpr int64_t kNearFloats = 36864;
/// Queries on a grid have no sums, and a tile's results are touched once a block of keys, so only
/// the packing counts (attend_decode_flow with 2,736 queries, fastest of 15 runs by processor time,
/// 384 / 576 / 1152 / 2048 queries an item: 1.09 / 1.13 / 1.00 / 1.00; its medians on a busy
/// machine do not differ).
constexpr ItemLimit kMostOnQueryGrid{2016, 1048576};
/// The tile of attend_forward-inl.h: no item has much fewer queries.
constexpr int64_t kQueryTile = 48;
/// An item is a multiple of this many queries. Less than a tile, so that 256 or 512 queries are
/// halves of one size for two threads.
constexpr int64_t kQueryStep = 16;
/// Fewer keys than this are not worth a partial result of their own.
constexpr int64_t kLeastKeys = 512;
/// Below this many multiplications starting threads costs more than it saves.
constexpr double kLeastWork = 200e3;

int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

struct Division {
  int threads;
  int64_t queries;  ///< of an item
  int64_t query_parts, key_parts;
};

double fill_of(int64_t items, int threads) {
  return static_cast<double>(items) / static_cast<double>(divide_up(items, threads) * threads);
}

Division divide(const AttendForward<float>& args, int wanted_threads) {
  const AttendShape& shape = args.shape;
  const ItemLimit& limit = args.grid.side == GridSide::kQueries ? kMostOnQueryGrid : kMost;
  Division division{};
  division.threads = wanted_threads > 0 ? wanted_threads : omp_get_max_threads();
  const int64_t pairs = shape.batch * shape.heads;
  const double work = static_cast<double>(pairs) * static_cast<double>(shape.queries) *
                      static_cast<double>(shape.keys) *
                      static_cast<double>(shape.qk_dim + shape.v_dim);
  if (work < kLeastWork) {
    division.threads = 1;
  }
  const int64_t width = std::max<int64_t>(shape.v_dim, 1);
  const int64_t near = std::max(limit.queries, std::min(kNearFloats / width, 2 * kMost.queries));
  const int64_t most =
      std::clamp(limit.floats / width, 2 * kQueryTile, near) / kQueryTile * kQueryTile;
  const int64_t most_query_parts = divide_up(shape.queries, kQueryTile);
  // The fewest items that keep every thread busy nine tenths of the time, else the best there is.
  int64_t parts = divide_up(shape.queries, most);
  for (int64_t n = parts; n <= most_query_parts && fill_of(pairs * parts, division.threads) < 0.9;
       ++n) {
    if (fill_of(pairs * n, division.threads) > fill_of(pairs * parts, division.threads)) {
      parts = n;
    }
  }
  division.queries = divide_up(divide_up(shape.queries, parts), kQueryStep) * kQueryStep;
  division.query_parts = divide_up(shape.queries, division.queries);
  division.key_parts = 1;
  const int64_t items = pairs * division.query_parts;
  if (fill_of(items, division.threads) < 0.75) {
    const int64_t most_parts = std::max<int64_t>(shape.keys / kLeastKeys, 1);
    division.key_parts = std::min<int64_t>(divide_up(division.threads, items), most_parts);
  }
  return division;
}

/// Results over a part of the keys: out, lse and sums as contiguous rows.
struct Partial {
  int64_t widths[kMaxGridAxes] = {};  ///< of the wanted sums, else 0
  int64_t floats = 0;                 ///< of one part

  explicit Partial(const AttendForward<float>& args) {
    floats = args.shape.v_dim + 1;
    for (int x = 0; args.grid.side == GridSide::kKeys && x < args.grid.num_axes; ++x) {
      widths[x] = args.sums[x].data == nullptr ? 0 : args.grid.extents[x];
      floats += widths[x];
    }
    floats *= args.shape.batch * args.shape.heads * args.shape.queries;
  }

  /// `args` with its results in `p`.
  AttendForward<float> place(AttendForward<float> args, float* p) const {
    const AttendShape& shape = args.shape;
    const auto take = [&shape, &p](int64_t width) {
      const Rows<float> rows{p, shape.heads * shape.queries * width, shape.queries * width, width};
      p += shape.batch * shape.heads * shape.queries * width;
      return rows;
    };
    args.out = take(shape.v_dim);
    args.lse = take(1).data;
    for (int x = 0; x < kMaxGridAxes; ++x) {
      args.sums[x] = widths[x] == 0 ? Rows<float>{} : take(widths[x]);
    }
    return args;
  }
};

struct MergeWeights {
  float out, part, lse;
};

MergeWeights merge_weights(float lse, float part_lse) {
  const float highest = std::max(lse, part_lse);
  if (highest == kMinusInfinity) {
    return {0, 0, kMinusInfinity};
  }
  const float out = std::exp(lse - highest), part = std::exp(part_lse - highest);
  const float total = out + part;
  return {out / total, part / total, highest + std::log(total)};
}

void blend(int64_t width, MergeWeights weights, float* out, const float* part) {
  for (int64_t c = 0; c < width; ++c) {
    out[c] = weights.out * out[c] + weights.part * part[c];
  }
}

/// Adds `part` to query `row` (of B * H * Q) of `args`.
void merge_row(const AttendForward<float>& args, const AttendForward<float>& part, int64_t row) {
  const AttendShape& shape = args.shape;
  const int64_t query = row % shape.queries, pair = row / shape.queries;
  const int64_t batch = pair / shape.heads, head = pair % shape.heads;
  const auto at = [batch, head, query](const Rows<float>& rows) {
    return rows.data + batch * rows.batch + head * rows.head + query * rows.row;
  };
  const MergeWeights weights = merge_weights(args.lse[row], part.lse[row]);
  blend(shape.v_dim, weights, at(args.out), at(part.out));
  for (int x = 0; x < kMaxGridAxes; ++x) {
    if (part.sums[x].data != nullptr) {
      blend(args.grid.extents[x], weights, at(args.sums[x]), at(part.sums[x]));
    }
  }
  args.lse[row] = weights.lse;
}

ForwardItem item_at(const AttendShape& shape, const Division& division, int64_t index) {
  ForwardItem item;
  const int64_t part = index % division.key_parts;
  index /= division.key_parts;
  item.first_query = index % division.query_parts * division.queries;
  item.queries = std::min(division.queries, shape.queries - item.first_query);
  index /= division.query_parts;
  item.head = index % shape.heads;
  item.batch = index / shape.heads;
  item.first_key = shape.keys * part / division.key_parts;
  item.keys = shape.keys * (part + 1) / division.key_parts - item.first_key;
  return item;
}

void run_items(const AttendForward<float>& args, const Division& division, float* partial_results,
               const ForwardKernel& kernel) {
  const AttendShape& shape = args.shape;
  const Partial partial(args);
  const int64_t items = shape.batch * shape.heads * division.query_parts * division.key_parts;
  const int threads = static_cast<int>(std::min<int64_t>(division.threads, items));
  const int64_t floats = (kernel.scratch(shape, division.queries) + 63) / 64 * 64;
  float* scratch = thread_scratch(ScratchUse::kTiles, threads * floats);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t index = 0; index < items; ++index) {
    const int64_t part = index % division.key_parts;
    float* own = scratch + omp_get_thread_num() * floats;
    const ForwardItem item = item_at(shape, division, index);
    kernel.item(
        part == 0 ? args : partial.place(args, partial_results + (part - 1) * partial.floats), item,
        own);
  }
}

void attend_in_parts(AttendForward<float> args, const Division& division,
                     const ForwardKernel& kernel) {
  const int64_t rows = args.shape.batch * args.shape.heads * args.shape.queries;
  const Partial partial(args);
  float* results =
      thread_scratch(ScratchUse::kPartialResults, (division.key_parts - 1) * partial.floats + rows);
  if (args.lse == nullptr) {
    args.lse = results + (division.key_parts - 1) * partial.floats;
  }
  run_items(args, division, results, kernel);
#pragma omp parallel for schedule(static) num_threads(division.threads)
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t part = 1; part < division.key_parts; ++part) {
      merge_row(args, partial.place(args, results + (part - 1) * partial.floats), row);
    }
  }
}

}  // namespace

void attend(const AttendForward<float>& args, int threads) {
  const KernelTable* kernels = active_table();
  if (kernels == nullptr) {
    attend_reference(args);
    return;
  }
  const AttendShape& shape = args.shape;
  if (shape.batch * shape.heads * shape.queries == 0) {
    return;
  }
  const ForwardKernel* narrow = args.bfloat16 ? active_bfloat16() : nullptr;
  const ForwardKernel& kernel = narrow == nullptr ? kernels->attend : *narrow;
  const Division division = divide(args, threads);
  if (division.key_parts == 1) {
    run_items(args, division, nullptr, kernel);
  } else {
    attend_in_parts(args, division, kernel);
  }
}

void merge_attended(int64_t rows, int64_t width, float* out, int64_t out_stride, float* lse,
                    const float* part, int64_t part_stride, const float* part_lse) {
  for (int64_t r = 0; r < rows; ++r) {
    const MergeWeights weights = merge_weights(lse[r], part_lse[r]);
    blend(width, weights, out + r * out_stride, part + r * part_stride);
    lse[r] = weights.lse;
  }
}

}  // namespace perceiver::kernels
