#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include "nn/plans.h"
#include "nn/recompute.h"
#include "nn/stems.h"
#include "nn/trace.h"
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
                                   segment.content.options().dtype(at::kBool)));
  }
  return needed ? at::cat(masks, 1) : at::Tensor();
}

/// The tokens of a pass, in the forms its cross-attends ask for; each is made once.
class EncoderInputs {
 public:
  EncoderInputs(const Model& model, const TokenArray& tokens, GridTablesCache& grids,
                const ModelOptions& options)
      : model_(model),
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
                                /*begin=*/0, eps)
                : normalised_rows(dense_tokens(segment), eps));
      }
    }
    return factored_;
  }

  const Model& model_;
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

}  // namespace

at::Tensor Model::encode(const TokenArray& tokens, TensorTrace* trace) {
  const int64_t batch = batch_of(tokens.segments.at(0));
  int64_t count = 0;
  for (const TokenSegment& segment : tokens.segments) {
    count += segment.tokens;
  }
  const std::vector<AttentionPlan> plans = choose_plans(batch, count, -1);
  EncoderInputs inputs(*this, tokens, *grids_, options_);
  if (wants(trace, "tokens")) {
    record(trace, "tokens", inputs.dense());
  }
  encode_plans_.clear();
  for (const AttentionPlan& plan : plans) {
    if (plan.attention.starts_with("encoder.")) {
      encode_plans_.push_back({plan.attention, plan_name(plan.plan), plan.reason, plan.flops});
    }
  }
  const std::vector<EncoderStep> steps = encoder_steps(spec_.encoder);
  const int64_t crosses =
      std::count_if(steps.begin(), steps.end(), [](const EncoderStep& s) { return s.cross; });
  at::Tensor latents = parameters_.at("latents").unsqueeze(0);  // of all examples, until they read
  int64_t crosses_done = 0;
  int64_t layers_done = 0;
  int64_t states = 0;
  const bool maps = wants(trace, "attention.encoder");
  const bool recomputes = options_.recompute_layers && at::GradMode::is_enabled() &&
                          !(training_ && (spec_.compatibility.dropout > 0 ||
                                          spec_.compatibility.attention_dropout > 0));
  for (const EncoderStep& step : steps) {
    if (step.cross) {
      const std::string name = cat("encoder.cross_attend.", step.weight_set);
      const AttentionModule module(parameters_, name, shape_.encoder_cross, spec_.compatibility);
      const Plan plan = plan_of(plans, name);
      const bool last = ++crosses_done == crosses;
      at::Tensor map;
      latents = plan == Plan::kTextbook || maps
                    ? textbook_cross_attend(module, latents, inputs, last, training_,
                                            maps ? &map : nullptr)
                    : cross_attend(module, latents, inputs, plan, training_);
      if (last) {
        inputs.release();
      }
      if (map.defined()) {
        record(trace,
               crosses == 1 ? "attention.encoder" : cat("attention.encoder.", crosses_done - 1),
               map);
      }
      record(trace, cat("latents.", states++), latents);
      continue;
    }
    for (int64_t layer = 0; layer < spec_.encoder.num_self_attends_per_block; ++layer) {
      const std::string name = cat("encoder.block.", step.weight_set, ".", layer);
      const AttentionModule module(parameters_, name, shape_.self, spec_.compatibility);
      at::Tensor map;
      const bool wants_map = wants(trace, "attention.self");
      if (recomputes && !wants_map) {
        const RowsFunction attend_again = [module, training = training_](const auto& rows) {
          return module.self_attend(rows[0], training);
        };
        latents = recompute_rows(attend_again, {latents}, trainable(parameters_, name + "."),
                                 latents.size(1));
      } else {
        latents = module.self_attend(latents, training_, wants_map ? &map : nullptr);
      }
      if (map.defined()) {
        record(trace, cat("attention.self.", layers_done), map);
      }
      ++layers_done;
      record(trace, cat("latents.", states++), latents);
    }
  }
  return latents;
}

}  // namespace perceiver::nn
