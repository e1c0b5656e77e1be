#include "runtime/model.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::runtime {

ProjectionDecoder::ProjectionDecoder(Weights& weights, const ModelSpec& spec, Precision precision) {
  const OutputSpec& output = spec.outputs.at(0);
  const std::string head = cat("outputs.", output.name, ".head");
  Affine first = weights.affine("decoder.final");
  switch (output.head) {
    case HeadKind::kLinear:
      first = compose(weights.affine(head), first);
      break;
    case HeadKind::kMlp:
      first = compose(weights.affine(head + ".0"), first);
      break;
    case HeadKind::kTiedEmbedding: {
      Affine tied = weights.affine(cat("inputs.", output.of_input, ".embedding"));
      const Array& bias = weights.at(head + ".bias");
      tied.bias.assign(bias.data<float>(), bias.data<float>() + bias.numel());
      first = compose(tied, first);
      break;
    }
    default:
      break;
  }
  linears_.emplace_back(std::move(first), precision);
  if (output.head == HeadKind::kMlp) {
    linears_.emplace_back(weights.affine(head + ".1"), precision);
  }
  weights.release_all("decoder.final");
}

Array ProjectionDecoder::apply(ConstMatrix latents, int64_t batch, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t count = latents.rows / batch;
  const Matrix mean = workspace.matrix(batch, latents.columns);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t c = 0; c < latents.columns; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(latents.row(b * count + i)[c]);
      }
      mean.row(b)[c] = static_cast<float>(sum / static_cast<double>(count));
    }
  }
  ConstMatrix rows = mean;
  for (size_t i = 0; i + 1 < linears_.size(); ++i) {
    const Matrix hidden = workspace.matrix(batch, linears_[i].out());
    linears_[i].apply(rows, hidden);
    for (int64_t b = 0; b < batch; ++b) {
      std::transform(hidden.row(b), hidden.row(b) + hidden.columns, hidden.row(b),
                     [](float x) { return std::tanh(x); });
    }
    rows = hidden;
  }
  const int64_t width = linears_.back().out();
  Array result = Array::zeros(DType::kF32, {batch, width});
  linears_.back().apply(rows, {result.mutable_data<float>(), batch, width, width});
  return result;
}

std::shared_ptr<Decoder::Prepared> SparePrepared::take() {
  const std::scoped_lock lock(mutex_);
  return std::move(spare_);
}

void SparePrepared::give(std::shared_ptr<Decoder::Prepared> prepared) {
  const std::scoped_lock lock(mutex_);
  spare_ = std::move(prepared);
}

RuntimeModel::RuntimeModel(const ModelSpec& given, const ArrayMap& arrays,
                           const EngineOptions& chosen)
    : spec(given),
      shape(resolve(given)),
      options(chosen),
      weights(given, arrays),
      steps(encoder_steps(given.encoder)) {
  const Precision precision = options.dtype == DType::kBF16 ? Precision::kBF16 : Precision::kF32;
  const ProductOrder order =
      options.plan == Plan::kTextbook ? ProductOrder::kPlain : ProductOrder::kSeven;
  // One weight after the other: what is packed goes back to the system before the next is read.
  int64_t num_crosses = 0, num_blocks = 0;
  for (const EncoderStep& step : steps) {
    int64_t& count = step.cross ? num_crosses : num_blocks;
    count = std::max(count, step.weight_set + 1);
  }
  for (int64_t set = 0; set < num_crosses; ++set) {
    cross_names_.push_back(cat("encoder.cross_attend.", set));
    crosses.emplace_back(weights, cross_names_.back(), spec, shape, precision);
    crosses.back().limit_scratch(options.memory_budget);
  }
  for (int64_t set = 0; set < num_blocks; ++set) {
    std::vector<SelfAttendLayer>& layers = blocks.emplace_back();
    for (int64_t layer = 0; layer < spec.encoder.num_self_attends_per_block; ++layer) {
      layers.emplace_back(weights, cat("encoder.block.", set, ".", layer), shape.self,
                          spec.compatibility, precision, order);
    }
  }
  later_queries.resize(steps.size());
  if (spec.decoder.kind == DecoderKind::kProjection) {
    projection = std::make_unique<ProjectionDecoder>(weights, spec, precision);
  } else {
    decoder = std::make_unique<Decoder>(weights, spec, shape, precision);
    decoder->limit_scratch(options.memory_budget);
  }
}

Matrix rows_of(Array& latents) {
  const int64_t width = latents.size(2);
  return {latents.mutable_data<float>(), latents.size(0) * latents.size(1), width, width};
}

Array RuntimeModel::initial_latents(int64_t batch) const {
  const Array& parameter = weights.at("latents");
  Array latents =
      Array::zeros(DType::kF32, {batch, spec.encoder.num_latents, spec.encoder.latent_channels});
  for (int64_t b = 0; b < batch; ++b) {
    std::copy_n(parameter.data<float>(), parameter.numel(),
                latents.mutable_data<float>() + b * parameter.numel());
  }
  return latents;
}

std::shared_ptr<const CrossAttendIn::Queries> RuntimeModel::first_queries(Plan plan,
                                                                          int64_t batch) {
  constexpr size_t kKept = 4;  // a program that never repeats a batch size must not fill the memory
  const std::pair<Plan, int64_t> key{plan, batch};
  const auto found = queries_.find(key);
  if (found != queries_.end()) {
    return found->second;
  }
  if (queries_.size() == kKept) {
    queries_.clear();
  }
  const int64_t width = spec.encoder.latent_channels;
  const ConstMatrix parameter{weights.data("latents"), spec.encoder.num_latents, width, width};
  const CrossAttendIn& cross = crosses.at(static_cast<size_t>(steps.at(0).weight_set));
  return queries_[key] = cross.prepare(parameter, batch, true, plan, workspace);
}

const std::vector<AttentionPlan>& RuntimeModel::encode_plans(int64_t batch, int64_t num_inputs) {
  if (plans_.empty() || planned_for_.batch != batch || planned_for_.num_inputs != num_inputs) {
    planned_for_ = {.wanted = options.plan, .batch = batch, .num_inputs = num_inputs};
    plans_ = plan_attentions(spec, planned_for_);
  }
  return plans_;
}

Plan find_plan(const std::vector<AttentionPlan>& plans, const std::string& attention) {
  for (const AttentionPlan& plan : plans) {
    if (plan.attention == attention) {
      return plan.plan;
    }
  }
  throw Error(ErrorCode::kInternal, cat("no plan was made for ", attention));
}

}  // namespace perceiver::runtime
