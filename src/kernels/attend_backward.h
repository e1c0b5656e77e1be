#pragma once

#include <cstdint>

#include "perceiver/kernels/attend.h"

// One tile of the backward pass, between the driver (attend_backward.cpp) and the instruction sets
// (attend_backward-inl.h). The driver cuts queries and keys into blocks; of every block a set packs
// the forms that the five products read. Products accumulate into rows padded to whole vectors,
// which the driver adds to the results.

namespace perceiver::kernels {

inline constexpr int64_t kMostBlock = 192;

/// Sizes that follow from the shape and the instruction set.
struct BackwardPlan {
  int64_t query_block;  ///< queries of a tile, at most kMostBlock
  int64_t key_block;    ///< keys of a tile, the same; a multiple of the lanes
  int64_t qk_width;     ///< qk_dim and v_dim, padded to whole vectors
  int64_t v_width;
  int64_t tile_row;  ///< floats between rows of a tile of scores
};

/// A block of queries as the products read it. Panels: packed B of tile-inl.h.
struct QueryPack {
  float* q;                ///< [query_block, qk_dim], multiplied with the scale of the scores
  float* q_panels;         ///< the same, packed
  float* grad_out_panels;  ///< packed
  float* lse;              ///< [query_block], +inf where no key is valid
  float* loss;             ///< [query_block] delta - grad_lse
};

/// A block of keys; masked ones are zero and have a bias of -inf, as have those of the padding.
struct KeyPack {
  float* k_transposed;  ///< packed
  float* k_panels;      ///< packed
  float* v_transposed;  ///< packed
  float* bias;          ///< [key_block]
  float* scale;         ///< [key_block] a, 1 where the keys lie on no grid
};

struct BackwardBlock {
  int64_t begin, count;
};

/// Starts at query 0, key 0 or coordinate 0 of one head.
template <typename T>
struct Matrix {
  T* data = nullptr;
  int64_t row = 0;
};

/// Where one head's results go; all are added to, null is not wanted.
struct BackwardResults {
  // rows of the tile's own block, padded
  float* grad_q = nullptr;  ///< [.., qk_width], without the scale of the scores
  float* grad_k = nullptr;  ///< [.., qk_width]
  float* grad_v = nullptr;  ///< [.., v_width]
  // from the head's first query or key on
  float* grad_scale = nullptr;
  float* grad_key_bias = nullptr;
  Matrix<float> grad_tables[kMaxGridAxes] = {};
};

struct BackwardTile {
  const BackwardPlan* plan = nullptr;
  const AttendBackward<float>* args = nullptr;
  int64_t batch = 0, head = 0;
  BackwardBlock queries{}, keys{};
  QueryPack query{};
  KeyPack key{};
  float* scores = nullptr;       ///< scratch, [query_block, tile_row]
  float* grads = nullptr;        ///< the same
  const float* zeros = nullptr;  ///< as many as qk_dim and v_dim, for packing masked keys
  BackwardResults into;
};

/// What an instruction set brings.
struct BackwardKernels {
  int64_t lanes;
  void (*pack_queries)(const BackwardTile& tile);
  void (*pack_keys)(const BackwardTile& tile);
  void (*run_tile)(const BackwardTile& tile);
  /// y += factor * x, [rows, width]
  void (*add_rows)(int64_t rows, int64_t width, float factor, const float* x, int64_t x_row,
                   float* y, int64_t y_row);
};

/// attend_backward by a given set.
void run_backward(const AttendBackward<float>& args, const BackwardKernels& kernels, int threads);

extern const BackwardKernels kAvx512Backward;
extern const BackwardKernels kAvx2Backward;
extern const BackwardKernels kPortableBackward;

}  // namespace perceiver::kernels
