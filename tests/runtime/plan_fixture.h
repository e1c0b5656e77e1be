#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/model_spec.h"
#include "runtime/token_source.h"

// What the tests of the plans share: token rows made up on the spot, random weights that use every
// parameter, and attention as plain loops in double.

namespace perceiver::runtime::test {

/// A made-up segment. Its dense rows are the truth; whether it factors is up to the test.
struct SourceOptions {
  std::string name = "field";
  int64_t batch = 1;
  std::vector<int64_t> grid = {9, 13};
  int64_t content = 3;
  int64_t bands = 2;  ///< Fourier bands per axis; 0 = no positions
  AxisGrid axis = AxisGrid::kInclusive;
  int64_t constants = 0;  ///< channels every token shares
  bool factors = true;
  bool is_constant = false;
  int64_t first_row = 0;  ///< only the rows from here on ...
  int64_t rows = -1;      ///< ... so many of them; < 0 = all
  double content_offset = 0;
  double masked_share = 0;      ///< of the tokens, at random
  bool masked_example = false;  ///< example 0 has no valid token at all
  uint32_t seed = 1;
};

class MadeUpSource : public TokenSource {
 public:
  explicit MadeUpSource(const SourceOptions& options);
  void content(int64_t b, int64_t begin, int64_t end, Matrix out) override;
  void dense(int64_t b, int64_t begin, int64_t end, Matrix out) override;
  const uint8_t* mask(int64_t b) const override;
  /// Token i of example b no longer is the sum of its parts.
  void replace(int64_t b, int64_t i);

 private:
  std::vector<float> rows_;  ///< [batch, count, channels]
  std::vector<float> shared_;
  std::vector<uint8_t> mask_;
};

using Rows = std::vector<std::vector<double>>;

/// Random values for every tensor of the spec, no two LayerNorms alike.
ArrayMap random_weights(const ModelSpec& spec, uint32_t seed = 7);

/// Tokens of example b of all sources below each other, and their masks.
Rows dense_rows(std::vector<MadeUpSource*> sources, int64_t b);
std::vector<uint8_t> joint_mask(const std::vector<MadeUpSource*>& sources, int64_t b);

/// The formulas as written, in double.
struct PlainAttention {
  const ArrayMap& weights;
  std::string prefix;
  AttentionShape shape;
  Compatibility compatibility;

  /// Softmax result [heads * queries][keys].
  Rows map(const Rows& queries, const Rows& inputs, const std::vector<uint8_t>& mask) const;
  /// @param query_mask  rows that count; empty = all
  Rows apply(const Rows& queries, const Rows& inputs, const std::vector<uint8_t>& mask,
             const std::vector<uint8_t>& query_mask = {}) const;
};

Rows linear(const ArrayMap& weights, const std::string& name, const Rows& x);

/// Largest difference, relative to the largest wanted value (at least 1).
double distance(const Rows& wanted, ConstMatrix got);

}  // namespace perceiver::runtime::test
