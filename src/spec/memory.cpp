#include "perceiver/spec/memory.h"

#include <algorithm>

#include "perceiver/base/str.h"
#include "perceiver/spec/cost.h"
#include "perceiver/spec/model_shape.h"
#include "spec/real.h"

namespace perceiver {
namespace {

constexpr double kFloat = 4;
constexpr double kDefaultBlock = 16 << 20;  // what a block may take if nobody says

using spec_detail::d;

const AttentionPlan* plan_of(const std::vector<AttentionPlan>& plans, const char* attention) {
  for (const AttentionPlan& plan : plans) {
    if (plan.attention.starts_with(attention)) {
      return &plan;
    }
  }
  return nullptr;
}

class Estimate {
 public:
  Estimate(const ModelSpec& spec, const std::vector<AttentionPlan>& plans,
           const PlanRequest& request, int64_t budget)
      : spec_(spec),
        plans_(plans),
        shape_(resolve(spec)),
        batch_(d(request.batch)),
        latents_(batch_ * d(spec.encoder.num_latents)),
        outputs_(batch_ * d(request.num_outputs < 0 ? shape_.num_outputs : request.num_outputs)),
        block_(budget > 0 ? d(budget) : kDefaultBlock) {}

  std::vector<StageMemory> stages() const {
    std::vector<StageMemory> stages;
    for (const StageCost& cost : textbook_cost(spec_).stages) {
      StageMemory stage{cost.stage, kFloat * d(cost.parameters), 0, ""};
      if (cost.stage == "preprocess") {
        preprocess(stage);
      } else if (cost.stage == "encode") {
        encode(stage);
      } else if (cost.stage == "process") {
        process(stage);
      } else if (cost.stage == "decode") {
        decode(stage);
      }
      stages.push_back(std::move(stage));
    }
    return stages;
  }

 private:
  void preprocess(StageMemory& stage) const {
    double convolved = 0;
    for (const InputSpec& input : spec_.inputs) {
      double raw =
          batch_ * d(input.kind == InputKind::kText ? 2 : input.channels + input.coordinates);
      for (const int64_t extent :
           input.kind == InputKind::kLabel ? std::vector<int64_t>{} : input.index_dims) {
        raw *= d(extent);
      }
      stage.working_bytes += kFloat * raw;
      if (input.stem == Stem::kConv) {
        // the first layer's result, a quarter of the pixels, and what the pool leaves of it
        convolved += kFloat * raw / d(input.channels) * d(input.out_channels) * (0.25 + 0.0625);
      }
    }
    stage.working_bytes += convolved;
    stage.working = convolved > 0 ? "inputs and the stem's pictures" : "inputs";
  }

  void encode(StageMemory& stage) const {
    const AttentionPlan* plan = plan_of(plans_, "encoder.cross_attend");
    if (plan == nullptr) {
      return;
    }
    const AttentionShape& a = shape_.encoder_cross;
    const bool textbook = plan->plan == Plan::kTextbook;
    // queries, the softmax state, and the state of the block at hand
    const double width =
        textbook ? d(2 * a.qk_channels + 2 * a.v_channels) : 3 * d(a.num_heads * a.input_channels);
    stage.working_bytes =
        block_ + kFloat * latents_ * (width + d(a.v_channels + a.mlp_channels + a.query_channels));
    stage.working = "softmax state of the latents and a block of tokens";
  }

  void process(StageMemory& stage) const {
    const AttentionShape& a = shape_.self;
    stage.working_bytes =
        kFloat * latents_ *
        d(2 * a.query_channels + std::max(2 * a.qk_channels + 2 * a.v_channels, a.mlp_channels));
    stage.working = "latents and one layer";
  }

  void decode(StageMemory& stage) const {
    stage.working_bytes = kFloat * answers();
    stage.working = "answers";
    const AttentionPlan* plan = plan_of(plans_, "decoder.cross_attend");
    if (plan == nullptr) {
      return;
    }
    const AttentionShape& a = shape_.decoder_cross;
    const bool textbook = plan->plan == Plan::kTextbook;
    const double absorbed = textbook ? 0 : 2 * d(a.num_heads * a.query_channels);
    const double kept = textbook ? std::min(kFloat * outputs_ * d(a.qk_channels), block_) : 0;
    const double per_row =
        kFloat * d(2 * a.query_channels + a.qk_channels + a.v_channels + a.mlp_channels);
    stage.working_bytes += kFloat * latents_ * (d(a.qk_channels + a.v_channels) + absorbed) + kept +
                           std::min(block_, outputs_ * per_row);
    stage.working = "keys and values of the latents, a block of rows, the answers";
  }

  /// Floats of all answers.
  double answers() const {
    const double share = shape_.num_outputs > 0 ? outputs_ / d(shape_.num_outputs) : batch_;
    double sum = 0;
    for (const QueryShape& query : shape_.outputs) {
      const OutputSpec& output = spec_.output(query.name);
      int64_t channels =
          spec_.decoder.final_project ? spec_.decoder.output_channels : shape_.query_channels;
      if (output.head == HeadKind::kTiedEmbedding) {
        channels = spec_.input(output.of_input).vocab_size;
      } else if (output.head_channels > 0) {
        channels = output.head_channels;
      }
      sum += share * d(std::max<int64_t>(query.rows, 1)) * d(channels);
    }
    return sum;
  }

  const ModelSpec& spec_;
  const std::vector<AttentionPlan>& plans_;
  const ModelShape shape_;
  const double batch_, latents_, outputs_, block_;
};

}  // namespace

std::vector<StageMemory> estimate_memory(const ModelSpec& spec,
                                         const std::vector<AttentionPlan>& plans,
                                         const PlanRequest& request, int64_t budget) {
  return Estimate(spec, plans, request, budget).stages();
}

double peak_bytes(const std::vector<StageMemory>& stages) {
  double weights = 0, inputs = 0, largest = 0;
  for (const StageMemory& stage : stages) {
    weights += stage.weight_bytes;
    if (stage.stage == "preprocess") {
      inputs = stage.working_bytes;
    } else {
      largest = std::max(largest, stage.working_bytes);
    }
  }
  return weights + inputs + largest;
}

}  // namespace perceiver
