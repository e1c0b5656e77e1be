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
#include "runtime/token_window.h"
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
  /// Grid the rows lie on, row-major; {count} otherwise.
  const std::vector<int64_t>& grid() const { return grid_; }
  /// Per-axis tables; only when factors().
  const tokens::SeparablePositions& positions() const { return positions_; }
  /// Where on the grid of positions() row 0 lies. Selected rows factor when they are neighbours.
  int64_t first_row() const { return first_row_; }
  /// [constant channels] shared by all rows; null when there are none.
  const float* constant() const { return constant_; }
  int64_t constant_channels() const { return constant_channels_; }
  /// True when rows are the same for every example and call: all rows of learned or position-only
  /// queries. (Asked points, and a text shorter than its table, differ from call to call.)
  bool is_constant() const { return is_constant_; }

  /// Content of rows [begin, end) of example `b`, without positions even where they are added:
  /// out [end - begin, content_channels].
  virtual void content(int64_t b, int64_t begin, int64_t end, Matrix out) = 0;
  /// The same of a window: out [window.count(), content_channels].
  virtual void content_of(int64_t b, const TokenWindow& window, Matrix out) {
    for (int64_t run = 0; run < window.runs; ++run) {
      content(b, window.begin(run), window.begin(run) + window.columns,
              out.block(run * window.columns, (run + 1) * window.columns));
    }
  }
  /// The dense view: out [end - begin, channels], positions, constants and replacements included.
  virtual void dense(int64_t b, int64_t begin, int64_t end, Matrix out) = 0;
  /// [count] nonzero = valid, or null = all.
  virtual const uint8_t* mask(int64_t b) const = 0;
  /// Where the content of these rows lies in a mapped file, its pages go back to the system; read
  /// again, they come from the file again.
  virtual void forget(int64_t /*b*/, int64_t /*begin*/, int64_t /*end*/) const {}

 protected:
  std::string name_;
  int64_t batch_ = 1, count_ = 0, first_row_ = 0;
  int64_t content_channels_ = 0, position_channels_ = 0, constant_channels_ = 0;
  bool factors_ = false, is_constant_ = false;
  std::vector<int64_t> grid_;
  tokens::SeparablePositions positions_;
  const float* constant_ = nullptr;
};

/// LayerNorm's result of rows [begin, end), its scale and shift left to the weights.
/// @param out  [end - begin, channels]  @return it
Matrix normed_rows(TokenSource& source, int64_t b, int64_t begin, int64_t end, float eps,
                   Matrix out);

/// Columns of the dense position channels that belong to axis `axis`, in the order of
/// positions.axes[axis]'s channels.
std::vector<int64_t> axis_columns(const tokens::SeparablePositions& positions, size_t axis);

/// What sources keep between calls, so that a second forward of a shape computes no sines, packs no
/// weights and resizes no tables: packed stems, per-axis Fourier tables and projected position
/// tables (those of up to kMaxTableBytes), one grid per part of the spec. For one model only; owned
/// by the engine, may die before the sources. Not thread-safe.
class SourceCache {
 public:
  static constexpr int64_t kMaxTableBytes = int64_t{64} << 20;

  SourceCache();
  ~SourceCache();
  SourceCache(const SourceCache&) = delete;
  SourceCache& operator=(const SourceCache&) = delete;

  struct Parts;
  Parts& parts() { return *parts_; }

 private:
  std::unique_ptr<Parts> parts_;
};

/// Sources of all inputs in the order of ModelShape::inputs, checked against the spec. They share
/// the memory of `inputs` (whatever dtype it has: F64 becomes F32 block by block) and view
/// `weights`, which must outlive them. Conv stems are computed here, whole.
///
/// A token that the mask token replaces by chance (0 < mask_probability < 1) is drawn from a hash
/// of the input's name, the example and the token's index on the whole grid: the same tokens at
/// every call, however the input is cut into blocks.
/// @param cache  null = nothing is kept
/// @throws Error(kShape), Error(kArgument) with the same words as the nn engine
std::vector<std::unique_ptr<TokenSource>> read_inputs(
    const ModelSpec& spec, const ModelShape& shape, const Weights& weights,
    const ModelInputs& inputs, Workspace& workspace, SourceCache* cache = nullptr);

/// One input, possibly only a block of it along its first raw axis (EncoderState::push).
/// @param extents  raw extents of the whole input; empty = those of `raw`, the first one `begin`
///                 longer
/// @param begin    index of raw's first slice on the first axis
/// The source's rows are the block's tokens; `first_token` says where on the whole grid they start,
/// and grid() is the whole grid. With strides a block may hold no token at all.
/// @throws Error(kShape) for half patches or a block outside the extents, Error(kUnsupported) for
///         conv stems
struct InputBlock {
  std::unique_ptr<TokenSource> source;
  int64_t first_token = 0;
};
InputBlock read_block(const ModelSpec& spec, const ModelShape& shape, const Weights& weights,
                      const std::string& modality, const Array& raw, const Array& mask,
                      const std::vector<int64_t>& extents, int64_t begin, Workspace& workspace,
                      SourceCache* cache = nullptr);

/// Queries of one output for `request`: all rows, the asked points, or what the caller gives.
/// mask() is that of the request, where the spec has the decoder use it.
/// @param inputs  for queries made of inputs, which must outlive them; may be empty otherwise
/// @throws Error(kShape), Error(kArgument) with the same words as the nn engine
std::unique_ptr<TokenSource> make_queries(const ModelSpec& spec, const ModelShape& shape,
                                          const Weights& weights, const OutputSpec& output,
                                          const std::vector<std::unique_ptr<TokenSource>>& inputs,
                                          const OutputRequest& request, int64_t batch,
                                          SourceCache* cache = nullptr);

}  // namespace perceiver::runtime
