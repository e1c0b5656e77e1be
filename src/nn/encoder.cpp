#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include "nn/merge_parts.h"
#include "nn/plans.h"
#include "nn/products.h"
#include "nn/recompute.h"
#include "nn/stems.h"
#include "nn/trace.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"
#include "perceiver/nn/model.h"

namespace perceiver::nn {
namespace {

/// Masks of all modalities side by side: [B, M] bool, or undefined when none has one.
at::Tensor joint_mask(const TokenArray& tokens) {
  std::vector<at::Tensor> masks;
  bool needed = false;
  for (const TokenSegment& segment : tokens.segments) {
    const bool has = segment.mask.defined();
    needed = needed || has;
    masks.push_back(has ? segment.mask
                        : at::ones({batch_of(segment), segment.tokens},
                                   (segment.content.defined() ? segment.content : segment.positions)
                                       .options()
                                       .dtype(at::kBool)));
  }
  return needed ? at::cat(masks, 1) : at::Tensor();
}

/// The tokens of a pass, in the forms its cross-attends ask for; each is made once.
class EncoderInputs {
 public:
  EncoderInputs(const Model& model, const TokenArray& tokens, GridTablesCache& grids,
                const ModelOptions& options, Merger* merger)
      : model_(model),
        merger_(merger),
        tokens_(tokens),
        grids_(grids),
        options_(options),
        mask_(joint_mask(tokens)),
        any_valid_(mask_.defined() ? mask_.any(1) : mask_) {}

  const at::Tensor& dense() {
    if (!dense_.defined()) {
      dense_ = model_.dense(tokens_);
    }
    return dense_;
  }
  const at::Tensor& mask() const { return mask_; }

  /// Queries [B or 1, H, N, C] with everything absorbed -> [B, H, N, C].
  at::Tensor read(at::Tensor queries, Plan plan) {
    if (any_valid_.defined()) {
      // an example without any valid token: equal scores make it the plain mean
      queries = queries * any_valid_.view({-1, 1, 1, 1}).to(queries.scalar_type());
    }
    std::vector<ReadTokens> reads;
    int64_t begin = 0;
    for (const AbsorbedRows& rows : plan == Plan::kFactored ? factored() : normalised()) {
      reads.push_back(read_tokens(queries, rows, mask_of(begin, rows.count)));
      begin += rows.count;
    }
    if (merger_ != nullptr) {
      return merge_parts(reads.at(0), *merger_);  // one input: one segment
    }
    return merge_reads(reads);
  }

  /// Attended values [B, N, v] as MaskedRows::kZero wants them.
  at::Tensor without_invalid(const at::Tensor& attended) const {
    if (!any_valid_.defined() || model_.spec().compatibility.masked_rows != MaskedRows::kZero) {
      return attended;
    }
    return attended * any_valid_.view({-1, 1, 1}).to(attended.scalar_type());
  }

  /// The last reader is done.
  void release() {
    dense_ = at::Tensor();
    normalised_.clear();
    factored_.clear();
  }

 private:
  at::Tensor mask_of(int64_t begin, int64_t count) const {
    return mask_.defined()
               ? mask_.narrow(1, begin, count).logical_or(any_valid_.logical_not().unsqueeze(1))
               : mask_;
  }

  const std::vector<AbsorbedRows>& normalised() {
    if (normalised_.empty()) {
      normalised_.push_back(normalised_rows(dense(), model_.spec().compatibility.layer_norm_eps));
    }
    return normalised_;
  }

  const std::vector<AbsorbedRows>& factored() {
    const double eps = model_.spec().compatibility.layer_norm_eps;
    if (factored_.empty()) {
      for (const TokenSegment& segment : tokens_.segments) {
        factored_.push_back(
            is_factorable(segment)
                ? factored_rows(segment,
                                grids_.get(cat("inputs.", segment.modality), *segment.separable,
                                           tensor_options(options_)),
                                segment.begin, eps)
                : normalised_rows(dense_tokens(segment, grids_), eps));
      }
    }
    return factored_;
  }

  const Model& model_;
  Merger* merger_;
  const TokenArray& tokens_;
  GridTablesCache& grids_;
  const ModelOptions& options_;
  at::Tensor mask_, any_valid_;  ///< [B, M], [B]; undefined when no token is masked
  at::Tensor dense_;
  std::vector<AbsorbedRows> normalised_, factored_;
};

Plan plan_of(const std::vector<AttentionPlan>& plans, const std::string& attention) {
  for (const AttentionPlan& plan : plans) {
    if (plan.attention == attention) {
      return plan.plan;
    }
  }
  return Plan::kTextbook;
}

at::Tensor cross_attend(const AttentionModule& module, const at::Tensor& latents,
                        EncoderInputs& inputs, Plan plan, bool training) {
  const at::Tensor mixed = inputs.read(module.absorbed_queries(latents), plan);
  return module.finish(inputs.without_invalid(module.values_of(mixed)), latents,
                       /*projected=*/false, training);
}

at::Tensor textbook_cross_attend(const AttentionModule& module, const at::Tensor& latents,
                                 EncoderInputs& inputs, bool last, bool training, at::Tensor* map) {
  const AttentionModule::KeysValues keys_values = module.keys_values(inputs.dense());
  if (last) {
    inputs.release();  // the largest array of the pass
  }
  const at::Tensor queries = latents.expand({keys_values.keys.size(0), -1, -1});
  return module.finish(module.attend_to(queries, keys_values, inputs.mask(), training, map),
                       queries, /*projected=*/false, training);
}

/// Trainable tensors whose name begins with `prefix`.
std::vector<at::Tensor> trainable(const Parameters& parameters, const std::string& prefix) {
  std::vector<at::Tensor> found;
  for (const Parameters::Entry& entry : parameters.entries()) {
    if (entry.tensor.requires_grad() && entry.info.name.starts_with(prefix)) {
      found.push_back(entry.tensor);
    }
  }
  return found;
}

/// One pass over the encoder's steps.
class EncoderWalk {
 public:
  EncoderWalk(const Model& model, const ModelOptions& options, EncoderInputs inputs,
              std::vector<AttentionPlan> plans, TensorTrace* trace)
      : model_(model),
        options_(options),
        inputs_(std::move(inputs)),
        plans_(std::move(plans)),
        trace_(trace),
        steps_(encoder_steps(model.spec().encoder)),
        crosses_(std::count_if(steps_.begin(), steps_.end(),
                               [](const EncoderStep& step) { return step.cross; })),
        // of all examples, until they read
        latents_(model.parameters().at("latents").unsqueeze(0)) {}

  at::Tensor run() {
    for (const EncoderStep& step : steps_) {
      if (step.cross) {
        read(step.weight_set);
      } else {
        process(step.weight_set);
      }
    }
    return latents_;
  }

 private:
  AttentionModule module_of(const std::string& name, const AttentionShape& shape) const {
    return {model_.parameters(), name, shape, model_.spec().compatibility,
            product_order(model_.options().plan)};
  }

  void read(int64_t weight_set) {
    const std::string name = cat("encoder.cross_attend.", weight_set);
    const AttentionModule module = module_of(name, model_.shape().encoder_cross);
    const Plan plan = plan_of(plans_, name);
    const bool last = ++crosses_done_ == crosses_;
    const bool wants_map = wants(trace_, "attention.encoder");
    at::Tensor map;
    latents_ = plan == Plan::kTextbook || wants_map
                   ? textbook_cross_attend(module, latents_, inputs_, last, model_.training(),
                                           wants_map ? &map : nullptr)
                   : cross_attend(module, latents_, inputs_, plan, model_.training());
    if (last) {
      inputs_.release();
    }
    if (map.defined()) {
      record(trace_,
             crosses_ == 1 ? "attention.encoder" : cat("attention.encoder.", crosses_done_ - 1),
             map);
    }
    record(trace_, cat("latents.", states_++), latents_);
  }

  void process(int64_t weight_set) {
    const bool wants_map = wants(trace_, "attention.self");
    for (int64_t layer = 0; layer < model_.spec().encoder.num_self_attends_per_block; ++layer) {
      const std::string name = cat("encoder.block.", weight_set, ".", layer);
      const AttentionModule module = module_of(name, model_.shape().self);
      at::Tensor map;
      if (recomputes() && !wants_map) {
        const RowsFunction again = [module, training = model_.training()](const auto& rows) {
          return module.self_attend(rows[0], training);
        };
        latents_ = recompute_rows(again, {latents_}, trainable(model_.parameters(), name + "."),
                                  latents_.size(1));
      } else {
        latents_ = module.self_attend(latents_, model_.training(), wants_map ? &map : nullptr);
      }
      if (map.defined()) {
        record(trace_, cat("attention.self.", layers_done_), map);
      }
      ++layers_done_;
      record(trace_, cat("latents.", states_++), latents_);
    }
  }

  bool recomputes() const {
    const Compatibility& rules = model_.spec().compatibility;
    const bool random = model_.training() && (rules.dropout > 0 || rules.attention_dropout > 0);
    return options_.recompute_layers && at::GradMode::is_enabled() && !random;
  }

  const Model& model_;
  const ModelOptions& options_;
  EncoderInputs inputs_;
  std::vector<AttentionPlan> plans_;
  TensorTrace* trace_;
  std::vector<EncoderStep> steps_;
  int64_t crosses_;
  at::Tensor latents_;
  int64_t crosses_done_ = 0, layers_done_ = 0, states_ = 0;
};

}  // namespace

at::Tensor Model::encode(const TokenArray& tokens, TensorTrace* trace) {
  int64_t count = 0;
  for (const TokenSegment& segment : tokens.segments) {
    count += segment.tokens;
  }
  std::vector<AttentionPlan> plans = choose_plans(batch_of(tokens.segments.at(0)), count, -1);
  encode_plans_.clear();
  for (const AttentionPlan& plan : plans) {
    if (plan.attention.starts_with("encoder.")) {
      encode_plans_.push_back({plan.attention, plan_name(plan.plan), plan.reason, plan.flops});
    }
  }
  if (merger_ != nullptr && wants(trace, "attention.encoder")) {
    throw Error(ErrorCode::kUnsupported,
                "[encoder] several processes read the input together: none sees the whole map");
  }
  EncoderInputs inputs(*this, tokens, *grids_, options_, merger_);
  if (wants(trace, "tokens")) {
    record(trace, "tokens", inputs.dense());
  }
  return EncoderWalk(*this, options_, std::move(inputs), std::move(plans), trace).run();
}

}  // namespace perceiver::nn
