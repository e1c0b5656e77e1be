#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/nn/attention.h"
#include "perceiver/nn/model.h"
#include "perceiver/spec/plan.h"

// The absorbed and factored orders of a cross-attention (docs/plans.md) as LibTorch operations
// around attend_terms(). The few queries, or the latents that serve as keys, carry the projections
// of the many tokens; the tokens come normalised but without LayerNorm's scale and shift, which are
// absorbed like the projections. Differentiable in everything.

namespace perceiver::nn {

/// The position features of a grid, axis by axis, and what LayerNorm needs of them.
struct GridTables {
  /// Channels [begin, begin + length) of one axis' table, side by side in the model's order too.
  struct ChannelRun {
    size_t axis;
    int64_t begin, length;
  };
  std::vector<int64_t> extents;
  std::vector<at::Tensor> axes;  ///< [extent_x, P], the same P for all
  std::vector<ChannelRun> runs;  ///< all channels in the model's order
  at::Tensor order;              ///< [axes * P] the model's channel of each axis channel
  at::Tensor inverse;            ///< its inverse
  at::Tensor mean, variance;     ///< [tokens] of a token's axes * P features
};

/// Features of tokens of the grid, made where the tables lie: nothing comes from the host.
/// @param tokens  [n] their grid indices, on the tables' device
/// @return        [n, axes * P] in the model's order
at::Tensor grid_rows(const GridTables& grid, const at::Tensor& tokens);
/// Of tokens begin .. begin + count - 1.
at::Tensor grid_rows(const GridTables& grid, int64_t begin, int64_t count);

/// Tables on the model's device, made once per grid and kept while there are few.
class GridTablesCache {
 public:
  /// @param name  of input or output: grids of one name and extents are the same
  std::shared_ptr<const GridTables> get(const std::string& name,
                                        const tokens::SeparablePositions& positions,
                                        const at::TensorOptions& options);

 private:
  std::map<std::string, std::shared_ptr<const GridTables>> tables_;
};

/// Tokens or queries as the absorbed orders read them. Dense: normalised rows. Factored: content
/// with 1 / sigma and the grid's tables beside it; only queries can be without content, and then
/// hold one channel of zeros.
struct AbsorbedRows {
  int64_t count = 0;                       ///< M
  at::Tensor rows;                         ///< [B or 1, M, C], factored [B or 1, M, Cc]
  at::Tensor scale;                        ///< factored: [B or 1, M] 1 / sigma
  at::Tensor constant;                     ///< factored: [W] channels all share, or undefined
  std::shared_ptr<const GridTables> grid;  ///< null: dense
  int64_t begin = 0;                       ///< grid index of the first row
};

/// Whether content, separable positions and constant channels make up the token.
bool is_factorable(const TokenSegment& segment);
/// @param segment  its tokens are those of the grid from `begin` on
AbsorbedRows factored_rows(const TokenSegment& segment, std::shared_ptr<const GridTables> grid,
                           int64_t begin, double eps);
/// @param dense  [B, M, C]
AbsorbedRows normalised_rows(const at::Tensor& dense, double eps);
/// Rows begin .. begin + length - 1.
AbsorbedRows narrow(const AbsorbedRows& rows, int64_t begin, int64_t length);

/// Weighted means of normalised tokens.
struct ReadTokens {
  at::Tensor mixed;  ///< [B, H, N, C]
  at::Tensor lse;    ///< [B, H, N]
};
/// @param queries  [B or 1, H, N, C] with everything absorbed
/// @param mask     [B, M] bool or undefined
ReadTokens read_tokens(const at::Tensor& queries, const AbsorbedRows& tokens,
                       const at::Tensor& mask);
/// Of several segments, as if their tokens stood side by side. @return [B, H, N, C]
at::Tensor merge_reads(const std::vector<ReadTokens>& reads);

/// Latents as the keys of absorbed queries, for one output.
struct AbsorbedKeys {
  at::Tensor keys;                 ///< [B, H, N, C], factored [B, H, N, Cc]
  std::vector<at::Tensor> tables;  ///< factored: [B, H, extent_x, N]
};
/// @param keys   [B, H, N, C] with everything absorbed
/// @param rows   of the output they serve: its widths and tables
AbsorbedKeys absorbed_keys(const at::Tensor& keys, const AbsorbedRows& rows);
/// @param bias    [B, H, N]
/// @param values  [B, H, N, d]
/// @return        [B, H, rows, d]
at::Tensor ask_latents(const AbsorbedRows& rows, const AbsorbedKeys& keys, const at::Tensor& bias,
                       const at::Tensor& values);

}  // namespace perceiver::nn
