#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tokens/engine.h"
#include "perceiver/tokens/positions.h"
#include "runtime/matrix.h"
#include "runtime/weights.h"
#include "runtime/workspace.h"

namespace perceiver::runtime {

/// One segment of a token array that makes its rows when asked, block by block, so that neither an
/// input nor a set of queries ever exists whole. What is read (one per modality) and what is asked
/// (one per output) are both this. Columns: [content | positions | constant].
class TokenSource {
 public:
  virtual ~TokenSource() = default;

  const std::string& name() const { return name_; }
  int64_t batch() const { return batch_; }
  int64_t count() const { return count_; }  ///< tokens (or rows) of one example
  int64_t content_channels() const { return content_channels_; }
  int64_t position_channels() const { return position_channels_; }  ///< 0 when they are added
  int64_t channels() const { return content_channels_ + position_channels_ + constant_channels_; }

  /// Whether rows are [content | separable positions | constant] of a grid, so that the factored
  /// plan applies: no replaced tokens, positions appended, Fourier on a grid without linears after.
  bool factors() const { return factors_; }
  /// Grid the rows lie on, row-major; {count} otherwise. A source of selected rows never factors.
  const std::vector<int64_t>& grid() const { return grid_; }
  /// Per-axis tables; only when factors().
  const tokens::SeparablePositions& positions() const { return positions_; }
  /// [constant channels] shared by all rows; null when there are none.
  const float* constant() const { return constant_; }
  int64_t constant_channels() const { return constant_channels_; }
  /// True when rows are the same for every example and call: learned or position-only queries.
  bool is_constant() const { return is_constant_; }

  /// Content of rows [begin, end) of example `b`: out [end - begin, content_channels].
  virtual void content(int64_t b, int64_t begin, int64_t end, Matrix out) = 0;
  /// The dense view: out [end - begin, channels], positions, constants and replacements included.
  virtual void dense(int64_t b, int64_t begin, int64_t end, Matrix out) = 0;
  /// [count] nonzero = valid, or null = all.
  virtual const uint8_t* mask(int64_t b) const = 0;

 protected:
  std::string name_;
  int64_t batch_ = 1, count_ = 0;
  int64_t content_channels_ = 0, position_channels_ = 0, constant_channels_ = 0;
  bool factors_ = false, is_constant_ = false;
  std::vector<int64_t> grid_;
  tokens::SeparablePositions positions_;
  const float* constant_ = nullptr;
};

/// Columns of the dense position channels that belong to axis `axis`, in the order of
/// positions.axes[axis]'s channels.
std::vector<int64_t> axis_columns(const tokens::SeparablePositions& positions, size_t axis);

/// Sources of all inputs in the order of ModelShape::inputs, checked against the spec.
/// They view `inputs` and `weights`, which must outlive them; conv stems are computed here.
/// @throws Error(kShape), Error(kArgument) with the same words as the nn engine
std::vector<std::unique_ptr<TokenSource>> read_inputs(const ModelSpec& spec,
                                                      const ModelShape& shape,
                                                      const Weights& weights,
                                                      const ModelInputs& inputs,
                                                      Workspace& workspace);

/// One input, possibly only a block of it along its first raw axis (EncoderState::push).
/// @param extents  raw extents of the whole grid input; empty = those of `raw`
/// @param begin    index of raw's first slice on the first axis
/// The source's rows are the block's tokens; `first_token` says where on the whole grid they start,
/// and grid() is the whole grid.
struct InputBlock {
  std::unique_ptr<TokenSource> source;
  int64_t first_token = 0;
};
InputBlock read_block(const ModelSpec& spec, const ModelShape& shape, const Weights& weights,
                      const std::string& modality, const Array& raw, const Array& mask,
                      const std::vector<int64_t>& extents, int64_t begin, Workspace& workspace);

/// Queries of one output for `request`: all rows, the asked points, or what the caller gives.
/// @param inputs  for queries made of inputs; may be empty otherwise
/// @throws Error(kShape), Error(kArgument) with the same words as the nn engine
std::unique_ptr<TokenSource> make_queries(const ModelSpec& spec, const ModelShape& shape,
                                          const Weights& weights, const OutputSpec& output,
                                          const std::vector<std::unique_ptr<TokenSource>>& inputs,
                                          const OutputRequest& request, int64_t batch);

}  // namespace perceiver::runtime
