#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "nn/plans.h"
#include "perceiver/nn/merger.h"
#include "perceiver/nn/model.h"

// From raw modality data to one token segment, with weights: embeddings, convolutions, linears.

namespace perceiver::nn {

/// What a stem needs to know of the model around it.
struct StemContext {
  const ModelSpec& spec;
  const ModelShape& shape;
  Parameters& parameters;  ///< batch norm updates its statistics in training
  bool training;
  DType tables;  ///< precision Fourier tables are computed in
  at::TensorOptions options;
  GridTablesCache& grids;
  Merger* merger = nullptr;  ///< others read the rest of the input
};

inline at::TensorOptions tensor_options(const ModelOptions& options) {
  return at::TensorOptions().dtype(options.dtype).device(options.device);
}

/// Examples in the batch that `segment` is of.
int64_t batch_of(const TokenSegment& segment);

/// @throws Error(kShape) naming the modality, the expected and the given shape
TokenSegment make_segment(const StemContext& context, const TokenShape& tokens,
                          const TensorInputs& inputs);

/// [B, M_m, content + position], without padding; the "inputs with position" of one modality.
/// Separable positions are made dense here.
at::Tensor positioned(const TokenSegment& segment, GridTablesCache& grids);

/// [B, M_m, content + position + padding], mask tokens in place: what the encoder reads of a
/// modality.
at::Tensor dense_tokens(const TokenSegment& segment, GridTablesCache& grids);

/// Space-to-depth over any number of axes, channels ordered (d0, d1, ..., c), c fastest.
at::Tensor space_to_depth(const at::Tensor& grid, const std::vector<int64_t>& block);
at::Tensor depth_to_space(const at::Tensor& grid, const std::vector<int64_t>& block);

/// `.extra.<i>` residual linears and `.projection` on an encoding, where the position has them.
at::Tensor position_linears(const Parameters& parameters, const std::string& prefix,
                            const PositionSpec& position, at::Tensor encoding);

/// Fourier features of coordinates [..., d] -> [..., channels], differentiable.
/// @param grid  extents that stand in for max_resolution where the position leaves it empty
at::Tensor fourier_features(const PositionSpec& position, const std::vector<int64_t>& grid,
                            const at::Tensor& coordinates);

}  // namespace perceiver::nn
