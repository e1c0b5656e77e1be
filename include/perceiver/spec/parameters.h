#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

// The one list of a model's tensors. Engines allocate from it, checkpoint readers check against it,
// initialisation and weight decay follow it, `info` counts it.
//
// Names (our layout; linear weights are [out, in], convolutions [out, in, kh, kw]):
//   latents                                             [N, D]
//   inputs.<m>.embedding.weight                         [vocab, c]        text
//   inputs.<m>.stem.{weight,bias}                       linear, 1x1 convolution or after patches
//   inputs.<m>.conv.<i>.weight                          [c, in, 7, 7]
//   inputs.<m>.batch_norm.<i>.{weight,bias,running_mean,running_var,num_batches_tracked}
//   inputs.<m>.position.table                           [n, c]            trainable
//   inputs.<m>.position.extra.<i>.{weight,bias}
//   inputs.<m>.position.projection.{weight,bias}
//   inputs.<m>.padding                                  [1, w]            multimodal
//   inputs.<m>.mask_token                               [1, C]
//   encoder.cross_attend.<set>.<A>
//   encoder.block.<set>.<layer>.<A>
//   decoder.cross_attend.<A>
//   decoder.final.{weight,bias}
//   outputs.<m>.query.table, .query.extra.<i>.*, .query.projection.*, outputs.<m>.padding
//   outputs.<m>.head.{weight,bias}                      linear, tied embedding: .bias only
//   outputs.<m>.head.<i>.{weight,bias}                  mlp: 0 to E, 1 to head_channels
//                                                       conv upsample: [in, out, 4, 4(, 4)] as
//                                                       LibTorch keeps transposed convolutions
//                                                       convex upsample: 0 the coarse field, 1 the
//                                                       9 * factors weights, neighbour-major
// <A>: norm_queries, norm_inputs (cross only), query, key, value, output, norm_mlp, mlp_in,
// mlp_out,
//      each .weight and .bias

namespace perceiver {

enum class Init {
  kZeros,
  kOnes,
  kAttentionLinear,  ///< inside attention modules: variance scaling over fan_in (DeepMind)
  kPlainLinear,      ///< other linears and convolutions: truncated normal, 1/sqrt(fan_in)
  kTable,            ///< latents, position tables, padding and mask tokens: truncated normal 0.02
  kEmbedding,        ///< token embedding: truncated normal 1
  kZerosByDesign,    ///< projections DeepMind starts at zero (flow's final linear, projection
                     ///< decoder)
};

struct ParameterInfo {
  std::string name;
  std::vector<int64_t> shape;
  Init init = Init::kZeros;
  int64_t fan_in = 1;
  bool trainable = true;  ///< false: batch-norm running statistics
  DType dtype = DType::kF32;
};

/// All tensors of `spec`, in a fixed order. @throws Error(kArgument) as validate() does
std::vector<ParameterInfo> parameter_table(const ModelSpec& spec);

/// Sum over trainable tensors.
int64_t parameter_count(const ModelSpec& spec);

/// Checks a set of tensors against the table.
/// @param where  what to call the source in the message
/// @throws Error(kFormat): one message that lists missing, surplus and misshapen tensors (at most
///         eight of each, then how many more)
void check_parameters(const ModelSpec& spec, const ArrayMap& tensors, const std::string& where);

enum class InitScheme { kDeepMind, kTransformers };

/// Random weights, the same for a seed on every machine.
/// @param initializer_range  standard deviation of InitScheme::kTransformers
ArrayMap random_parameters(const ModelSpec& spec, InitScheme scheme, uint64_t seed,
                           double initializer_range = 0.02);

}  // namespace perceiver
