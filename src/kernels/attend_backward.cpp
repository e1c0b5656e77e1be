#include "kernels/attend_backward.h"

#include <algorithm>
#include <omp.h>

#include "kernels/kernel_table.h"
#include "kernels/scratch.h"

// How the backward pass is split. The longer of queries and keys is cut into parts: a part owns the
// gradients of its tokens and adds them to the results itself. What belongs to the shorter side
// gets a sum from every part, kept per part and added up in the order of the parts, so that the
// same thread count gives the same bits. Several heads run at once where that is safe.

namespace perceiver::kernels {
namespace {

/// Below this many multiplications of one product starting threads costs more than it saves.
constexpr double kLeastWork = 100e3;
/// Tokens of a tile on either side: more reads and writes sums less often, fewer leaves the tile,
/// a block of each side and their sums in the second cache (96 to 128 measured the same).
constexpr int64_t kMostTokens = 96;
/// Blocks of the longer side worked on together where the shorter side has rows of tables: so many
/// tiles find those rows near.
constexpr int64_t kBlocksWithTables = 16;

int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}
/// Pieces of scratch start on cache lines.
int64_t padded(int64_t n) {
  return divide_up(n, 16) * 16;
}

bool is_shared(const AttendShape& shape, const Rows<float>& rows) {
  return rows.data != nullptr &&
         ((rows.batch == 0 && shape.batch > 1) || (rows.head == 0 && shape.heads > 1));
}

int64_t threads_for(const AttendShape& shape, int threads) {
  const double work = static_cast<double>(shape.batch * shape.heads) *
                      static_cast<double>(shape.queries) * static_cast<double>(shape.keys) *
                      static_cast<double>(shape.qk_dim + shape.v_dim);
  return work < kLeastWork ? 1 : threads > 0 ? threads : std::max(1, omp_get_max_threads());
}

class Backward {
 public:
  Backward(const AttendBackward<float>& args, const BackwardKernels& kernels, int threads)
      : args_(args),
        forward_(args.forward),
        shape_(args.forward.shape),
        kernels_(kernels),
        threads_(threads_for(args.forward.shape, threads)),
        long_queries_(shape_.queries >= shape_.keys),
        long_tokens_(std::max(shape_.queries, shape_.keys)),
        short_tokens_(std::min(shape_.queries, shape_.keys)) {
    const int64_t pairs = shape_.batch * shape_.heads;
    heads_at_once_ = long_side_is_shared() ? 1 : std::min<int64_t>(threads_, pairs);
    long_block_ = block_size(divide_up(long_tokens_, threads_ / heads_at_once_));
    short_block_ = block_size(short_tokens_);
    long_blocks_ = divide_up(long_tokens_, long_block_);
    short_blocks_ = divide_up(short_tokens_, short_block_);
    const int64_t own_blocks = divide_up(long_blocks_, threads_ / heads_at_once_);
    group_ = num_tables(!long_queries_) == 0 ? 1 : std::min(kBlocksWithTables, own_blocks);
    plan_.query_block = long_queries_ ? long_block_ : short_block_;
    plan_.key_block = long_queries_ ? short_block_ : long_block_;
    plan_.qk_width = divide_up(shape_.qk_dim, kernels.lanes) * kernels.lanes;
    plan_.v_width = divide_up(shape_.v_dim, kernels.lanes) * kernels.lanes;
    plan_.tile_row = plan_.key_block + 16;  // off powers of two: a column would share a cache set
  }

  void run() {
    const int64_t packs = heads_at_once_ * short_blocks_ * pack_size(!long_queries_);
    const int64_t zeros = padded(std::max(shape_.qk_dim, shape_.v_dim));
    packs_ = thread_scratch(ScratchUse::kBackward, packs + zeros + threads_ * unit_size());
    zeros_ = packs_ + packs;
    units_ = zeros_ + zeros;
    std::fill_n(zeros_, zeros, 0.0F);
    const int64_t pairs = shape_.batch * shape_.heads;
    for (int64_t first = 0; first < pairs; first += heads_at_once_) {
      run_heads(first, std::min(heads_at_once_, pairs - first));
    }
  }

 private:
  // ---- sizes, in floats ----

  /// Near-equal blocks of whole panels.
  int64_t block_size(int64_t tokens) const {
    const int64_t panel = 2 * kernels_.lanes;
    const int64_t blocks = divide_up(tokens, kMostTokens);
    return std::min(kMostTokens, divide_up(divide_up(tokens, blocks), panel) * panel);
  }
  int64_t pack_size(bool queries) const {
    const int64_t tokens = queries ? plan_.query_block : plan_.key_block;
    return 2 * padded(tokens * plan_.qk_width) + padded(tokens * plan_.v_width) +
           2 * padded(tokens);
  }
  int64_t tile_size() const { return padded(plan_.query_block * plan_.tile_row); }
  /// Of the sums over the other side that products make.
  int64_t sums_size(bool queries, int64_t tokens) const {
    return padded(tokens * plan_.qk_width) + (queries ? 0 : padded(tokens * plan_.v_width));
  }
  /// All sums of the shorter side.
  int64_t partial_size() const {
    int64_t size = sums_size(!long_queries_, short_tokens_) + 2 * padded(short_tokens_);
    for (int x = 0; x < num_tables(!long_queries_); ++x) {
      size += padded(forward_.grid.extents[x] * short_tokens_);
    }
    return size;
  }
  int64_t unit_size() const {
    return 2 * tile_size() +
           group_ * (pack_size(long_queries_) + sums_size(long_queries_, long_block_)) +
           partial_size();
  }

  // ---- what belongs to which side ----

  bool on_grid(bool queries) const {
    return forward_.grid.side == (queries ? GridSide::kQueries : GridSide::kKeys);
  }
  /// Tables with an entry per query are those of a grid of keys, and the other way round.
  int num_tables(bool queries) const { return on_grid(!queries) ? forward_.grid.num_axes : 0; }

  /// Whether two heads would add to the same tokens of the longer side.
  bool long_side_is_shared() const {
    bool shared = long_queries_
                      ? is_shared(shape_, args_.grad_q)
                      : is_shared(shape_, args_.grad_k) || is_shared(shape_, args_.grad_v);
    for (int x = 0; x < num_tables(long_queries_); ++x) {
      shared = shared || is_shared(shape_, args_.grad_tables[x]);
    }
    const bool one_scale = shape_.batch > 1 && forward_.grid.scale_batch == 0;
    return shared || (on_grid(long_queries_) && args_.grad_scale != nullptr &&
                      (one_scale || shape_.heads > 1));
  }

  // ---- one round: some heads, each in parts ----

  struct Unit {
    int64_t pair;                    ///< batch * heads + head
    int64_t slot;                    ///< of the head's packs
    int64_t first_block, end_block;  ///< of the longer side
    float* memory;
  };

  template <typename Work>
  void for_each(int64_t count, const Work& work) const {
    if (threads_ == 1 || count == 1) {
      for (int64_t i = 0; i < count; ++i) {
        work(i);
      }
      return;
    }
#pragma omp parallel for schedule(static) num_threads(threads_)
    for (int64_t i = 0; i < count; ++i) {
      work(i);
    }
  }

  void run_heads(int64_t first, int64_t heads) {
    const int64_t parts = std::clamp<int64_t>(threads_ / heads, 1, long_blocks_);
    for_each(heads * short_blocks_, [&](int64_t i) {
      BackwardTile tile = empty_tile(first + i / short_blocks_);
      set_block(tile, !long_queries_, i % short_blocks_,
                short_pack(i / short_blocks_, i % short_blocks_));
      pack(tile, !long_queries_);
    });
    for_each(heads * parts, [&](int64_t i) {
      const int64_t part = i % parts;
      run_unit({first + i / parts, i / parts, long_blocks_ * part / parts,
                long_blocks_ * (part + 1) / parts, units_ + i * unit_size()});
    });
    const int64_t slices = std::min<int64_t>(threads_, short_blocks_);
    for_each(slices, [&](int64_t s) {
      const int64_t begin = short_blocks_ * s / slices * short_block_;
      const int64_t end = std::min(short_blocks_ * (s + 1) / slices * short_block_, short_tokens_);
      for (int64_t i = 0; i < heads * parts; ++i) {
        add_partial(first + i / parts, units_ + i * unit_size(), {begin, end - begin});
      }
    });
  }

  float* short_pack(int64_t slot, int64_t block) const {
    return packs_ + (slot * short_blocks_ + block) * pack_size(!long_queries_);
  }

  BackwardTile empty_tile(int64_t pair) const {
    BackwardTile tile;
    tile.plan = &plan_;
    tile.args = &args_;
    tile.batch = pair / shape_.heads;
    tile.head = pair % shape_.heads;
    tile.zeros = zeros_;
    return tile;
  }

  /// Points the tile at block `index` of its queries or keys, packed at `memory`.
  void set_block(BackwardTile& tile, bool queries, int64_t index, float* memory) const {
    const int64_t size = queries ? plan_.query_block : plan_.key_block;
    const int64_t tokens = queries ? shape_.queries : shape_.keys;
    const BackwardBlock block{index * size, std::min(size, tokens - index * size)};
    const int64_t of_qk = padded(size * plan_.qk_width), of_v = padded(size * plan_.v_width);
    float* const panels = memory + of_qk;
    float* const values = panels + of_qk;
    float* const first = values + of_v;
    float* const second = first + padded(size);
    if (queries) {
      tile.queries = block;
      tile.query = {memory, panels, values, first, second};
    } else {
      tile.keys = block;
      tile.key = {memory, panels, values, first, second};
    }
  }

  void pack(const BackwardTile& tile, bool queries) const {
    (queries ? kernels_.pack_queries : kernels_.pack_keys)(tile);
  }

  void run_unit(const Unit& unit) const {
    BackwardTile tile = empty_tile(unit.pair);
    tile.scores = unit.memory;
    tile.grads = tile.scores + tile_size();
    float* const partial = unit.memory + unit_size() - partial_size();
    std::fill_n(partial, partial_size(), 0.0F);
    set_long_results(tile);
    set_partial_results(tile, partial);
    for (int64_t first = unit.first_block; first < unit.end_block; first += group_) {
      run_group(tile, unit.slot, first, std::min(group_, unit.end_block - first), partial);
    }
  }

  /// `count` blocks of the longer side from `first` on, against every block of the shorter one.
  void run_group(BackwardTile& tile, int64_t slot, int64_t first, int64_t count,
                 float* partial) const {
    float* const long_packs = tile.grads + tile_size();
    float* const long_sums = long_packs + group_ * pack_size(long_queries_);
    const int64_t sums = sums_size(long_queries_, long_block_);
    std::fill_n(long_sums, count * sums, 0.0F);
    const auto use_block = [&](int64_t l) {
      set_block(tile, long_queries_, first + l, long_packs + l * pack_size(long_queries_));
      set_sums(tile, long_queries_, long_sums + l * sums, long_block_, 0);
    };
    for (int64_t l = 0; l < count; ++l) {
      use_block(l);
      pack(tile, long_queries_);
    }
    for (int64_t s = 0; s < short_blocks_; ++s) {
      set_block(tile, !long_queries_, s, short_pack(slot, s));
      set_sums(tile, !long_queries_, partial, short_tokens_, s * short_block_);
      for (int64_t l = 0; l < count; ++l) {
        use_block(l);
        kernels_.run_tile(tile);
      }
    }
    for (int64_t l = 0; l < count; ++l) {
      use_block(l);
      add_sums(tile, long_queries_, long_queries_ ? tile.queries : tile.keys);
    }
  }

  /// Where the tile's products go: row `row` of the sums of `tokens` queries or keys at `memory`.
  void set_sums(BackwardTile& tile, bool queries, float* memory, int64_t tokens,
                int64_t row) const {
    float* const of_qk = memory + row * plan_.qk_width;
    if (queries) {
      tile.into.grad_q = args_.grad_q.data == nullptr ? nullptr : of_qk;
      return;
    }
    float* const of_v = memory + padded(tokens * plan_.qk_width) + row * plan_.v_width;
    tile.into.grad_k = args_.grad_k.data == nullptr ? nullptr : of_qk;
    tile.into.grad_v = args_.grad_v.data == nullptr ? nullptr : of_v;
  }

  float* key_bias_gradient(const BackwardTile& tile) const {
    const int64_t row = tile.batch * shape_.heads + tile.head;
    return args_.grad_key_bias == nullptr ? nullptr : args_.grad_key_bias + row * shape_.keys;
  }
  float* scale_gradient(const BackwardTile& tile) const {
    return args_.grad_scale == nullptr ? nullptr
                                       : args_.grad_scale + tile.batch * forward_.grid.scale_batch;
  }
  Matrix<float> table_gradient(const BackwardTile& tile, int x) const {
    const Rows<float>& rows = args_.grad_tables[x];
    return rows.data == nullptr
               ? Matrix<float>{}
               : Matrix<float>{rows.data + tile.batch * rows.batch + tile.head * rows.head,
                               rows.row};
  }

  /// The longer side's own: straight into the results.
  void set_long_results(BackwardTile& tile) const {
    if (!long_queries_) {
      tile.into.grad_key_bias = key_bias_gradient(tile);
    }
    if (on_grid(long_queries_)) {
      tile.into.grad_scale = scale_gradient(tile);
    }
    for (int x = 0; x < num_tables(long_queries_); ++x) {
      tile.into.grad_tables[x] = table_gradient(tile, x);
    }
  }

  struct PartialParts {
    float* scale;
    float* bias;
    Matrix<float> tables[kMaxGridAxes];
  };
  PartialParts parts_of(float* partial) const {
    PartialParts parts{};
    parts.scale = partial + sums_size(!long_queries_, short_tokens_);
    parts.bias = parts.scale + padded(short_tokens_);
    float* next = parts.bias + padded(short_tokens_);
    for (int x = 0; x < num_tables(!long_queries_); ++x) {
      const int64_t extent = forward_.grid.extents[x];
      parts.tables[x] = {next, long_queries_ ? short_tokens_ : extent};
      next += padded(extent * short_tokens_);
    }
    return parts;
  }

  void set_partial_results(BackwardTile& tile, float* partial) const {
    const PartialParts parts = parts_of(partial);
    if (long_queries_ && args_.grad_key_bias != nullptr) {
      tile.into.grad_key_bias = parts.bias;
    }
    if (on_grid(!long_queries_) && args_.grad_scale != nullptr) {
      tile.into.grad_scale = parts.scale;
    }
    for (int x = 0; x < num_tables(!long_queries_); ++x) {
      tile.into.grad_tables[x] =
          args_.grad_tables[x].data == nullptr ? Matrix<float>{} : parts.tables[x];
    }
  }

  // ---- adding sums to the results ----

  /// Adds the sums that `tile.into` points at to the gradients of `block`.
  void add_sums(const BackwardTile& tile, bool queries, const BackwardBlock& block) const {
    const auto add = [&](const Rows<float>& to, int64_t width, float factor, const float* from,
                         int64_t from_row) {
      if (from != nullptr) {
        float* first = to.data + tile.batch * to.batch + tile.head * to.head + block.begin * to.row;
        kernels_.add_rows(block.count, width, factor, from, from_row, first, to.row);
      }
    };
    if (queries) {
      add(args_.grad_q, shape_.qk_dim, forward_.scale, tile.into.grad_q, plan_.qk_width);
    } else {
      add(args_.grad_k, shape_.qk_dim, 1, tile.into.grad_k, plan_.qk_width);
      add(args_.grad_v, shape_.v_dim, 1, tile.into.grad_v, plan_.v_width);
    }
  }

  /// Adds one part's sums over the tokens of `slice` of the shorter side.
  void add_partial(int64_t pair, float* unit_memory, const BackwardBlock& slice) const {
    if (slice.count <= 0) {
      return;
    }
    float* const partial = unit_memory + unit_size() - partial_size();
    BackwardTile tile = empty_tile(pair);
    set_sums(tile, !long_queries_, partial, short_tokens_, slice.begin);
    add_sums(tile, !long_queries_, slice);
    set_partial_results(tile, partial);
    if (tile.into.grad_key_bias != nullptr) {
      add_run(slice, tile.into.grad_key_bias, key_bias_gradient(tile));
    }
    if (tile.into.grad_scale != nullptr) {
      add_run(slice, tile.into.grad_scale, scale_gradient(tile));
    }
    for (int x = 0; x < num_tables(!long_queries_); ++x) {
      const Matrix<float>& from = tile.into.grad_tables[x];
      const Matrix<float> to = table_gradient(tile, x);
      const int64_t extent = forward_.grid.extents[x];
      if (from.data == nullptr) {
        continue;
      }
      if (long_queries_) {  // [extent, keys]
        kernels_.add_rows(extent, slice.count, 1, from.data + slice.begin, from.row,
                          to.data + slice.begin, to.row);
      } else {  // [queries, extent]
        kernels_.add_rows(slice.count, extent, 1, from.data + slice.begin * from.row, from.row,
                          to.data + slice.begin * to.row, to.row);
      }
    }
  }

  void add_run(const BackwardBlock& slice, const float* from, float* to) const {
    kernels_.add_rows(1, slice.count, 1, from + slice.begin, 0, to + slice.begin, 0);
  }

  const AttendBackward<float>& args_;
  const AttendForward<float>& forward_;
  const AttendShape& shape_;
  const BackwardKernels& kernels_;
  const int64_t threads_;
  const bool long_queries_;
  const int64_t long_tokens_, short_tokens_;
  int64_t heads_at_once_ = 1;
  int64_t group_ = 1;  ///< blocks of the longer side worked on together
  int64_t long_block_ = 0, short_block_ = 0, long_blocks_ = 0, short_blocks_ = 0;
  BackwardPlan plan_{};
  float* packs_ = nullptr;  ///< of the shorter side, every head of the round
  float* zeros_ = nullptr;
  float* units_ = nullptr;
};

const BackwardKernels* kernels_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return &kAvx512Backward;
    case Isa::kAvx2:
      return &kAvx2Backward;
#endif
    case Isa::kPortable:
      return &kPortableBackward;
    default:
      return nullptr;
  }
}

}  // namespace

void run_backward(const AttendBackward<float>& args, const BackwardKernels& kernels, int threads) {
  const AttendShape& shape = args.forward.shape;
  if (shape.batch * shape.heads * shape.queries * shape.keys > 0) {
    Backward(args, kernels, threads).run();
  }
}

void attend_backward(const AttendBackward<float>& args, int threads) {
  const BackwardKernels* kernels = kernels_of(active_isa());
  if (kernels == nullptr) {
    attend_backward_reference(args);
  } else {
    run_backward(args, *kernels, threads);
  }
}

}  // namespace perceiver::kernels
