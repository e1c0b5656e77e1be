#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "perceiver/runtime/engine.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/tokens/engine.h"
#include "runtime/decode.h"
#include "runtime/encode.h"
#include "runtime/layer.h"
#include "runtime/token_source.h"

// What one engine holds.

namespace perceiver::runtime {

/// The only thing the original Perceiver's decoder does: mean over the latents, linear, head.
class ProjectionDecoder {
 public:
  ProjectionDecoder(Weights& weights, const ModelSpec& spec, Precision precision);
  /// @param latents [batch * N, D] @return [B, c]
  Array apply(ConstMatrix latents, int64_t batch, Workspace& workspace) const;

 private:
  std::vector<Linear> linears_;  ///< tanh between
};

/// Memory of one decoder's keys and values, handed from latents that are done with to the next.
class SparePrepared {
 public:
  /// Null when there is none.
  std::shared_ptr<Decoder::Prepared> take();
  /// May come from any thread: latents are let go of wherever their owner likes.
  void give(std::shared_ptr<Decoder::Prepared> prepared);

 private:
  std::mutex mutex_;
  std::shared_ptr<Decoder::Prepared> spare_;
};

/// One model's packed weights and everything kept between calls.
struct RuntimeModel {
  RuntimeModel(const ModelSpec& given, const ArrayMap& arrays, const EngineOptions& chosen);

  ModelSpec spec;
  ModelShape shape;
  EngineOptions options;
  Weights weights;
  std::vector<EncoderStep> steps;
  std::vector<CrossAttendIn> crosses;                ///< by weight set
  std::vector<std::vector<SelfAttendLayer>> blocks;  ///< by weight set
  std::unique_ptr<Decoder> decoder;                  ///< or
  std::unique_ptr<ProjectionDecoder> projection;
  Workspace workspace;
  SourceCache cache;
  // Results of the walk's own steps, written again by each forward.
  ReadState read_state;
  std::vector<std::shared_ptr<CrossAttendIn::Queries>> later_queries;  ///< by step
  SparePrepared spare_prepared;

  /// Latents [B, N, D], every example the model's parameter.
  Array initial_latents(int64_t batch) const;
  /// Queries of the parameter for the first cross-attend; made once per plan and batch.
  std::shared_ptr<const CrossAttendIn::Queries> first_queries(Plan plan, int64_t batch);
  /// Decisions for the encoder when so many tokens are read (< 0 = all), kept until the next
  /// differ.
  const std::vector<AttentionPlan>& encode_plans(int64_t batch, int64_t num_inputs);
  /// Those of the last call; empty before the first.
  const std::vector<AttentionPlan>& last_encode_plans() const { return plans_; }
  /// Of a step that crosses: "encoder.cross_attend.<weight set>".
  const std::string& cross_name(const EncoderStep& step) const {
    return cross_names_[static_cast<size_t>(step.weight_set)];
  }

 private:
  std::map<std::pair<Plan, int64_t>, std::shared_ptr<const CrossAttendIn::Queries>> queries_;
  std::vector<std::string> cross_names_;
  PlanRequest planned_for_;
  std::vector<AttentionPlan> plans_;
};

/// @throws Error(kInternal) if `attention` is not among them
Plan find_plan(const std::vector<AttentionPlan>& plans, const std::string& attention);

Matrix rows_of(Array& latents);

}  // namespace perceiver::runtime
