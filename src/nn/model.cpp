#include "perceiver/nn/model.h"

#include <algorithm>
#include <string_view>

#include <ATen/ops/cat.h>

#include "nn/plans.h"
#include "nn/stems.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/merger.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::nn {
namespace {

/// Maps of one attention that read the same tokens, queries too where those are the inputs, lie
/// behind each other, so that norm_linears() multiplies once.
void lay_maps_together(Parameters& parameters) {
  constexpr std::string_view kKey = ".key.weight";
  std::vector<std::string> attentions;
  for (const Parameters::Entry& entry : parameters.entries()) {
    if (entry.info.name.ends_with(kKey)) {
      attentions.push_back(entry.info.name.substr(0, entry.info.name.size() - kKey.size()));
    }
  }
  for (const std::string& attention : attentions) {
    const bool self = !parameters.contains(attention + ".norm_inputs.weight");
    for (const char* what : {".weight", ".bias"}) {
      std::vector<std::string> maps{attention + ".key" + what, attention + ".value" + what};
      if (self) {
        maps.insert(maps.begin(), attention + ".query" + what);
      }
      parameters.lay_together(maps);
    }
  }
}

/// Copies what still lies in the caller's memory.
void own_memory(Parameters& parameters, const ArrayMap& weights) {
  for (Parameters::Entry& entry : parameters.entries()) {
    const at::Tensor given = to_tensor(weights.at(entry.info.name));
    if (entry.tensor.const_data_ptr() == given.const_data_ptr()) {
      entry.tensor = given.clone();
    }
  }
}

Parameters make_parameters(const ModelSpec& spec, const ArrayMap& weights,
                           const ModelOptions& options) {
  check_parameters(spec, weights, spec.name.empty() ? "weights" : spec.name);
  Parameters parameters;
  for (const ParameterInfo& info : parameter_table(spec)) {
    const at::ScalarType type = info.dtype == DType::kI64 ? at::kLong : options.dtype;
    parameters.add(info, to_tensor(weights.at(info.name)).to(options.device, type));
  }
  // training writes into its weights, so they must not be the caller's
  if (!options.share_weights) {
    if (options.device.is_cpu()) {
      lay_maps_together(parameters);
    }
    own_memory(parameters, weights);
  }
  return parameters;
}

}  // namespace

Model::Model(const ModelSpec& spec, const ArrayMap& weights, const ModelOptions& options)
    : spec_(spec),
      shape_(resolve(spec)),
      options_(options),
      parameters_(make_parameters(spec, weights, options)),
      grids_(std::make_shared<GridTablesCache>()) {}

void Model::read_together(Merger* merger) {
  if (merger != nullptr) {
    check_input_parallel(spec_, merger->size());
  }
  merger_ = merger;
}

TokenArray Model::preprocess(const TensorInputs& inputs) {
  for (const auto& [name, unused] : inputs.arrays) {
    spec_.input(name);  // throws on a name the model does not read
  }
  const StemContext context{spec_,     shape_,          parameters_,
                            training_, options_.tables, tensor_options(options_),
                            *grids_,   merger_};
  TokenArray tokens;
  for (const TokenShape& input : shape_.inputs) {
    tokens.segments.push_back(make_segment(context, input, inputs));
    const int64_t batch = batch_of(tokens.segments.back());
    if (batch != batch_of(tokens.segments.front())) {
      throw Error(ErrorCode::kShape, cat("[input ", input.name, "] has a batch of ", batch,
                                         " but input ", tokens.segments.front().modality, " has ",
                                         batch_of(tokens.segments.front())));
    }
  }
  return tokens;
}

at::Tensor Model::dense(const TokenArray& tokens) const {
  std::vector<at::Tensor> parts;
  for (const TokenSegment& segment : tokens.segments) {
    parts.push_back(dense_tokens(segment, *grids_));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

// Only the absorbed orders keep the softmax sums by which parts merge.
void Model::merge_plans(PlanRequest request, std::vector<AttentionPlan>& plans) const {
  const auto reads = [](const AttentionPlan& plan) {
    return plan.attention.starts_with("encoder.cross_attend");
  };
  for (AttentionPlan& plan : plans) {
    if (reads(plan) && plan.plan == Plan::kTextbook) {
      request.wanted = Plan::kAbsorbed;
      const std::vector<AttentionPlan> absorbed = plan_attentions(spec_, request);
      plan = *std::find_if(absorbed.begin(), absorbed.end(), reads);
      plan.reason = "several processes read the input together";
    }
  }
}

std::vector<AttentionPlan> Model::choose_plans(int64_t batch, int64_t inputs,
                                               int64_t outputs) const {
  PlanRequest request{.wanted = options_.plan,
                      .batch = batch,
                      .num_inputs = inputs,
                      .num_outputs = outputs,
                      .constant_latents = false};
  std::string why;
  if (training_ && spec_.compatibility.attention_dropout > 0) {
    why = "attention dropout needs every weight";
  } else if (options_.dtype != at::kFloat && options_.dtype != at::kDouble) {
    why = "half-width arithmetic rounds the other orders differently";
  }
  if (!why.empty()) {
    request.wanted = Plan::kTextbook;
  }
  std::vector<AttentionPlan> plans = plan_attentions(spec_, request);
  if (merger_ != nullptr) {
    merge_plans(request, plans);
  }
  for (AttentionPlan& plan : plans) {
    plan.reason = why.empty() ? plan.reason : why;
  }
  return plans;
}

std::vector<UsedPlan> Model::plans() const {
  std::vector<UsedPlan> all = encode_plans_;
  all.insert(all.end(), decode_plans_.begin(), decode_plans_.end());
  return all;
}

TensorMap Model::forward(const TensorInputs& inputs, const TensorRequest& request,
                         TensorTrace* trace) {
  const TokenArray tokens = preprocess(inputs);
  const at::Tensor latents = encode(tokens, trace);
  TensorMap outputs = decode(latents, tokens, request, trace);
  if (result_device_) {
    for (auto& [name, output] : outputs) {
      output = output.to(*result_device_);
    }
  }
  return outputs;
}

}  // namespace perceiver::nn
