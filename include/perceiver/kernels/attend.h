#pragma once

#include <cstdint>

// Streaming attention, forward and backward: softmax state is kept per query row and updated tile
// by tile, so no [queries, keys] matrix ever exists. The backward pass makes each tile again from
// the saved log-sum-exp.
//
// One signature serves latents <- tokens, tokens <- latents and latents <- latents, dense or with
// one side factored over a grid (docs/plans.md). With s the score and p the softmax weight,
//
//   dense            s(i, j) = scale * q_i . k_j + key_bias(j)
//   keys on a grid   s(i, j) = a(j) * (scale * q_i . k_j + sum_x T_x(i, c_x(j))) + key_bias(j)
//   queries on one   s(i, j) = a(i) * (scale * q_i . k_j + sum_x T_x(c_x(i), j)) + key_bias(j)
//
//   out(i) = sum_j w(i, j) v_j,    w = p, or a(j) p(i, j) when the keys are on a grid
//   sums_x(i, c) = sum of w(i, j) over the keys with c_x(j) = c             (keys on a grid only)
//
// c_x is the coordinate on axis x of the grid, a the per-token scale (1 / sigma of LayerNorm).
//
// Nothing here checks its arguments, throws or allocates beyond the scratch it asks for; callers
// have checked. Floats are IEEE: masks need infinities.

namespace perceiver::kernels {

inline constexpr int kMaxGridAxes = 4;

/// B batches, H heads, Q queries, K keys and the widths of one head.
struct AttendShape {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t qk_dim = 0;
  int64_t v_dim = 0;
};

/// Rows of one head inside a larger array; element (b, h, i, c) is
/// data[b * batch + h * head + i * row + c]. Strides in elements; a stride of 0 shares.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
};

/// Which side of the attention lies on a grid.
enum class GridSide { kNone, kKeys, kQueries };

/// Tokens `begin`, begin + 1, ... of a row-major grid (the last axis varies fastest).
template <typename T>
struct TokenGrid {
  GridSide side = GridSide::kNone;
  int num_axes = 0;  ///< 0: only the scale
  int64_t extents[kMaxGridAxes] = {};
  int64_t begin = 0;         ///< grid index of the first key (or query) of this call
  const T* scale = nullptr;  ///< a: [B, tokens]; null = 1
  int64_t scale_batch = 0;   ///< elements between batches of `scale`; 0 shares
  /// kKeys: table x is [.., extent_x] per query, rows addressed by (b, h, query);
  /// kQueries: table x is [.., K] per coordinate, rows addressed by (b, h, coordinate).
  Rows<const T> tables[kMaxGridAxes] = {};
};

template <typename T>
struct AttendForward {
  AttendShape shape;
  Rows<const T> q, k, v;
  T scale = 1;
  const uint8_t* key_mask = nullptr;  ///< [B, K], nonzero = attend; null = every key
  int64_t key_mask_batch = 0;
  const T* key_bias = nullptr;  ///< [B, H, K] contiguous, or null
  TokenGrid<T> grid;
  /// Queries (times scale), keys, weights and values may be rounded to bfloat16 before they are
  /// multiplied: attend() does where active_bfloat16_kernels() says so, nothing else does. Sums,
  /// tables, biases and the softmax stay float32.
  bool bfloat16 = false;

  Rows<T> out;       ///< [.., v_dim], normalised; zero where no key is valid
  T* lse = nullptr;  ///< [B, H, Q] log-sum-exp of the scores, -inf without a valid key; or null
  /// kKeys: sums_x [.., extent_x], rows by (b, h, query), overwritten. Null data = not wanted.
  Rows<T> sums[kMaxGridAxes] = {};
};

/// Gradients of a forward call. `out`, `lse` and `sums` of `forward` hold its results.
/// Null pointers among the results are not computed; the others are ADDED to.
/// Where a stride of 0 shares an input over batches or heads, its gradient's stride must be 0 too.
template <typename T>
struct AttendBackward {
  AttendForward<T> forward;
  Rows<const T> grad_out;
  const T* grad_lse = nullptr;                 ///< [B, H, Q] or null
  Rows<const T> grad_sums[kMaxGridAxes] = {};  ///< null data = zero

  Rows<T> grad_q, grad_k, grad_v;
  T* grad_scale = nullptr;     ///< [B, tokens] like grid.scale, same batch stride
  T* grad_key_bias = nullptr;  ///< [B, H, K]
  Rows<T> grad_tables[kMaxGridAxes] = {};
};

/// Runs the kernel that active_kernels() names, on up to `threads` threads (0 = all of OpenMP's).
/// The same arguments and thread count give the same bits. Splits over batches, heads, queries and,
/// where those are too few to fill the threads, over keys.
/// Cost: 2 B H Q K (qk_dim + v_dim) flops and B H Q K exponentials; scratch is up to a few MiB a
/// thread plus, when split over keys, one partial result per part.
void attend(const AttendForward<float>& args, int threads = 0);
/// Five products of the tile size instead of two. Same determinism.
void attend_backward(const AttendBackward<float>& args, int threads = 0);

/// Plain loops with double accumulation: the oracle of the kernels, and what computes in float64.
void attend_reference(const AttendForward<float>& args);
void attend_reference(const AttendForward<double>& args);
void attend_backward_reference(const AttendBackward<float>& args);
void attend_backward_reference(const AttendBackward<double>& args);

/// Merges a partial result over other keys into `out`: both normalised, with their log-sum-exps.
/// A row's weight is exp(lse - merged lse); rows with -inf on both sides stay zero.
/// @param rows, width   of out and part, both [rows, width] with row strides
void merge_attended(int64_t rows, int64_t width, float* out, int64_t out_stride, float* lse,
                    const float* part, int64_t part_stride, const float* part_lse);

}  // namespace perceiver::kernels
