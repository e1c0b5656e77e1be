#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/tokens/encoder_state.h"
#include "runtime/encode.h"

namespace perceiver::runtime {

/// What an engine lends to the states it starts.
struct StateContext {
  const ModelSpec& spec;
  const ModelShape& shape;
  const Weights& weights;
  const CrossAttendIn& cross_attend;
  Workspace& workspace;
  SourceCache* cache = nullptr;
  std::shared_ptr<const void> owner;  ///< of the above, kept alive by the states
};

/// EncoderState over a ReadState: every pushed block is read at once and forgotten.
class StreamedState final : public EncoderState {
 public:
  /// @param queries  prepared for `batch` examples
  /// @param extents  raw extents per input where they differ from the spec's
  StreamedState(const StateContext& context, std::shared_ptr<const CrossAttendIn::Queries> queries,
                int64_t batch, std::map<std::string, std::vector<int64_t>> extents);

  void push(const std::string& modality, const Array& block, int64_t begin,
            const Array& mask = {}) override;
  void merge(const EncoderState& other) override;
  int64_t tokens() const override { return state_.tokens; }
  /// "lse" [B, H, N], "mean" [B, H, N, width], "tokens" [1], "model" [6], and with
  /// MaskedRows::kMean "plain" [B, width] and "plain_tokens" [B].
  ArrayMap save() const override;
  void load(const ArrayMap& saved) override;

  const ReadState& read_state() const { return state_; }
  const CrossAttendIn::Queries& queries() const { return *queries_; }

 private:
  std::vector<int64_t> identity() const;

  StateContext context_;
  std::shared_ptr<const CrossAttendIn::Queries> queries_;
  std::map<std::string, std::vector<int64_t>> extents_;
  ReadState state_;
};

}  // namespace perceiver::runtime
