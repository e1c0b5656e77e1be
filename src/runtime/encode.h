#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tokens/encoder_state.h"
#include "runtime/layer.h"
#include "runtime/token_source.h"

namespace perceiver::runtime {

/// Softmax state of a cross-attention from the latents to the tokens seen so far: per example, head
/// and latent the log-sum-exp and the normalised mean of the tokens (absorbed: of LayerNorm's input
/// in token channels; textbook: of the values).
struct ReadState {
  int64_t batch = 0, heads = 0, latents = 0, width = 0;
  std::vector<float> lse;   ///< [B, H, N], -inf before the first token
  std::vector<float> mean;  ///< [B, H, N, width]
  int64_t tokens = 0;
  /// Compatibility MaskedRows::kMean: plain mean over the tokens of blocks that are masked whole.
  /// A row without any valid key has seen no other blocks. [B, plain_width], [B].
  int64_t plain_width = 0;
  std::vector<float> plain;
  std::vector<double> plain_tokens;

  void reset(int64_t b, int64_t h, int64_t n, int64_t w);
  /// Room for `plain`. @param w  width of one plain mean; 0 = not kept
  void keep_plain(int64_t w);
  void add_plain(int64_t b, const float* token_mean, double count);
  /// @throws Error(kArgument) if the sizes differ
  void merge(const ReadState& other);
};

/// latents <- tokens with one of the plans.
class CrossAttendIn {
 public:
  /// @param prefix  e.g. "encoder.cross_attend.0"
  CrossAttendIn(Weights& weights, const std::string& prefix, const ModelSpec& spec,
                const ModelShape& shape, Precision precision);
  ~CrossAttendIn();
  CrossAttendIn(CrossAttendIn&&) noexcept;
  CrossAttendIn& operator=(CrossAttendIn&&) noexcept;

  /// A number of the tensors a ReadState depends on: the latents and this module's weights up to
  /// the values.
  uint64_t fingerprint() const;

  /// Scratch for a block of tokens; 0 = a few MiB, so that a block stays in the last-level cache.
  void limit_scratch(int64_t bytes);

  /// Queries of `latents` [batch * N, D] (or [N, D] shared by all examples: `shared`), in the form
  /// the plan needs. Computed once for the latent parameter of the model.
  /// kAuto: what plan_attentions() chooses for inputs of the spec's full size.
  /// @param reused  written instead of a new object, nothing allocated where the sizes are the same
  struct Queries;
  std::shared_ptr<Queries> prepare(ConstMatrix latents, int64_t batch, bool shared, Plan plan,
                                   Workspace& workspace,
                                   std::shared_ptr<Queries> reused = nullptr) const;
  /// What kAuto became. Sources that do not factor are read absorbed under kFactored.
  static Plan plan_of(const Queries& queries);
  /// A state that has seen nothing; read() makes one of a default-constructed state too.
  ReadState empty_state(const Queries& queries) const;
  /// The same in the memory of `state`.
  void empty(const Queries& queries, ReadState& state) const;

  /// Reads tokens [begin, end) of `source` into `state`. `first_token` is where on the grid the
  /// source's row 0 lies (blocks). Streams in blocks that fit the workspace.
  void read(const Queries& queries, TokenSource& source, int64_t begin, int64_t end,
            int64_t first_token, ReadState& state, Workspace& workspace) const;

  /// Attention output, residual and MLP: new latents into `latents` [batch * N, D], which hold the
  /// old ones. Rows without a valid key follow Compatibility::masked_rows.
  void finish(const Queries& queries, const ReadState& state, Matrix latents,
              Workspace& workspace) const;

  /// Softmax result of one source for a Trace: out [batch, H, N, M] gets columns of the source's
  /// tokens starting at `column`; needs the final lse.
  void map(const Queries& queries, TokenSource& source, const ReadState& state, int64_t column,
           int64_t num_tokens, float* out, Workspace& workspace) const;

  struct Parts;  ///< known to the sources of this class alone

 private:
  std::unique_ptr<Parts> parts_;
};

}  // namespace perceiver::runtime
