#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tokens/engine.h"
#include "runtime/layer.h"
#include "runtime/token_source.h"

namespace perceiver::runtime {

/// How the scores of one output's rows are computed, and why.
struct ScoreChoice {
  Plan plan = Plan::kTextbook;
  double flops = 0;           ///< of all rows, everything behind the scores included
  double textbook_flops = 0;  ///< likewise, as the formulas are written
  bool forced = false;        ///< asked for
  bool falls_back = false;    ///< kFactored was asked for, but the queries do not factor
  Plan runner_up = Plan::kTextbook;
  double runner_up_flops = 0;  ///< of the scores alone

  AttentionPlan described() const;
};

/// outputs <- latents, the decoder's final linear and the per-row heads, composed where that is
/// cheaper. Grid heads come after (grid_heads.h).
class Decoder {
 public:
  Decoder(Weights& weights, const ModelSpec& spec, const ModelShape& shape, Precision precision);
  ~Decoder();

  /// Scratch for a block of rows; 0 = a few MiB, so that a block stays in the last-level cache.
  void limit_scratch(int64_t bytes);

  /// Keys, values and what is absorbed into them, for latents [batch * N, D].
  /// The plan is that of the scores; kAuto: the cheapest per output, once its queries are known.
  /// The order of the rest is chosen by flops whatever the plan.
  /// @param reused  written instead of a new object, nothing allocated where the sizes are the same
  struct Prepared;
  std::shared_ptr<Prepared> prepare(ConstMatrix latents, int64_t batch, Plan plan,
                                    Workspace& workspace,
                                    std::shared_ptr<Prepared> reused = nullptr) const;

  /// Width of a finished row of `output` (after kLinear, kMlp, kTiedEmbedding heads).
  int64_t row_channels(const OutputSpec& output) const;

  /// How rows() will compute the scores of `queries`.
  ScoreChoice choice(const Prepared& prepared, const OutputSpec& output,
                     const TokenSource& queries) const;

  /// Rows [begin, end) of example b: out [end - begin, row_channels]. Streams in blocks.
  /// @param rows_before_head  [end - begin, E] receives "decoder_output" for a Trace, or data null
  void rows(const Prepared& prepared, const OutputSpec& output, TokenSource& queries, int64_t b,
            int64_t begin, int64_t end, Matrix out, Workspace& workspace,
            Matrix rows_before_head = {}) const;

  /// Softmax result of rows [begin, end) of example b: out [H, end - begin, N], head stride given.
  void map(const Prepared& prepared, TokenSource& queries, int64_t b, int64_t begin, int64_t end,
           float* out, int64_t head_stride, Workspace& workspace) const;

  struct Parts;  ///< known to the sources of this class alone

 private:
  std::unique_ptr<Parts> parts_;
};

}  // namespace perceiver::runtime
