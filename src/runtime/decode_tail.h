#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "perceiver/spec/model_shape.h"
#include "runtime/linear.h"
#include "runtime/weights.h"
#include "runtime/workspace.h"

// What follows the decoder's attention, row by row: output linear, query residual, MLP, the
// decoder's final linear and the head of one output. Private to decode*.cpp.

namespace perceiver::runtime {

/// Orders of computing the same rows. With p V the weighted values, x the row that enters the MLP,
/// hidden its inside and F the linear maps that follow:
enum class TailOrder {
  kSeparate,    ///< x + hidden W2, then the maps of F one by one
  kPlain,       ///< x + hidden W2, then F as one map where that is cheaper
  kComposed,    ///< x F + hidden (W2 F): no row of full width after the MLP
  kFromValues,  ///< p V (Wo F) + hidden (W2 F): no row of full width at all
};

/// Weights of the decoder that every output shares.
struct DecoderWeights {
  AttentionShape shape;
  Activation activation = Activation::kGeluErf;
  float eps = 1e-5F;
  Precision precision = Precision::kF32;
  Affine output, mlp_in, mlp_out;  ///< mlp_in with norm_mlp folded in
  // packed when first asked for
  std::optional<Linear> output_linear, mlp_in_linear, mlp_out_linear;
  std::optional<Linear> length, hidden_of_values;

  const Linear& packed_output();
  const Linear& packed_mlp_in();
  const Linear& packed_mlp_out();
  /// p V to a vector as long as the centred x.
  const Linear& packed_length();
  /// [a p V | a], a = 1 / sigma of x, to the MLP's inside before the activation.
  const Linear& packed_hidden_of_values();
};

class RowTail {
 public:
  /// @param chain  linear maps after the MLP, in order
  /// @param last   linear after a tanh at the end of the chain (HeadKind::kMlp)
  RowTail(DecoderWeights& shared, std::vector<Affine> chain, std::optional<Affine> last);

  int64_t channels() const;  ///< of a finished row
  bool possible(TailOrder order) const;
  /// Predicted flops of a row from x on; kFromValues: from p V on.
  double row_flops(TailOrder order) const;
  /// Flops of composing weights, once per model.
  double setup_flops(TailOrder order) const;
  /// Floats of scratch per row.
  int64_t row_floats() const;

  /// @param x     [rows, E], overwritten
  /// @param whole [rows, E] receives the rows before F (then `order` is not kComposed), or null
  void from_x(TailOrder order, Matrix x, Matrix out, Matrix whole, Workspace& workspace);
  /// @param values  p V in the first v columns of [rows, v + 1]; overwritten
  void from_values(Matrix values, Matrix out, Workspace& workspace);

 private:
  void follow(TailOrder order, ConstMatrix x, Matrix out, Workspace& workspace);
  void after_tanh(Matrix stage, Matrix out);
  void prepare_composed();
  void prepare_from_values();
  int64_t stage_channels() const;  ///< at the end of the chain
  bool chain_composes() const;     ///< one map is cheaper than its parts

  DecoderWeights& shared_;
  std::vector<Affine> chain_;
  std::optional<Affine> last_affine_;
  std::vector<Linear> separate_;
  std::optional<Linear> together_;   ///< the chain as one map
  std::optional<Linear> of_x_;       ///< kComposed
  std::optional<Linear> of_values_;  ///< kFromValues
  std::optional<Linear> of_hidden_;  ///< both
  std::optional<Linear> last_;
};

/// A map R with |R v|^2 = |A v + b|^2 for every v, by a pivoted Cholesky factorisation in double of
/// the Gram matrix of [A | b]: at most in + 1 rows where A has out.
Affine length_preserving(const Affine& map);

}  // namespace perceiver::runtime
