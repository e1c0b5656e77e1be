#include "perceiver/runtime/engine.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/tokens/encoder_state.h"
#include "runtime/encoder_state.h"
#include "runtime/model.h"
#include "runtime/threads.h"
#include "runtime/walk.h"

namespace perceiver::runtime {
namespace {

/// Whether the decoder looks at the inputs again, or must know how many there were.
bool queries_need_inputs(const ModelSpec& spec) {
  return std::any_of(spec.outputs.begin(), spec.outputs.end(), [](const OutputSpec& output) {
    return output.concat_input || output.query == QueryKind::kInputTokens ||
           output.query == QueryKind::kInputContent || output.head == HeadKind::kTiedEmbedding;
  });
}

/// An encoder state together with the model it reads for.
class RuntimeState final : public EncoderState {
 public:
  RuntimeState(std::shared_ptr<RuntimeModel> model, int64_t batch,
               const std::map<std::string, std::vector<int64_t>>& extents)
      : model_(std::move(model)),
        set_(model_->steps.at(0).weight_set),
        state_({model_->spec, model_->shape, model_->weights, cross(), model_->workspace,
                &model_->cache, nullptr},
               queries(batch), batch, extents) {}

  void push(const std::string& modality, const Array& block, int64_t begin,
            const Array& mask) override {
    const ThreadCount threads(model_->options.num_threads);
    const Workspace::Scope scope(model_->workspace);
    state_.push(modality, block, begin, mask);
  }
  void merge(const EncoderState& other) override {
    const auto* ours = dynamic_cast<const RuntimeState*>(&other);
    state_.merge(ours == nullptr ? other : ours->state_);
  }
  int64_t tokens() const override { return state_.tokens(); }
  ArrayMap save() const override { return state_.save(); }
  void load(const ArrayMap& saved) override { state_.load(saved); }

  const RuntimeModel* model() const { return model_.get(); }
  /// Latents after the cross-attend.
  Array read() const {
    const ReadState& read = state_.read_state();
    Array latents = model_->initial_latents(read.batch);
    cross().finish(state_.queries(), read, rows_of(latents), model_->workspace);
    return latents;
  }

 private:
  const CrossAttendIn& cross() const { return model_->crosses[static_cast<size_t>(set_)]; }
  std::shared_ptr<const CrossAttendIn::Queries> queries(int64_t batch) const {
    return model_->first_queries(
        find_plan(model_->encode_plans(batch, -1), model_->cross_name(model_->steps.at(0))), batch);
  }

  std::shared_ptr<RuntimeModel> model_;
  int64_t set_;
  StreamedState state_;
};

void check_request(const ModelSpec& spec, const OutputRequest& request) {
  for (const std::string& name : request.only) {
    spec.output(name);
  }
  for (const auto& [name, unused] : request.points) {
    spec.output(name);
  }
  for (const auto& [name, unused] : request.queries) {
    spec.output(name);
  }
  for (const auto& [name, unused] : request.query_masks) {
    spec.output(name);
  }
}

class RuntimeEngine : public Engine {
 public:
  explicit RuntimeEngine(std::shared_ptr<RuntimeModel> model) : model_(std::move(model)) {}

  const ModelSpec& spec() const override { return model_->spec; }
  std::string name() const override { return "runtime"; }

  std::unique_ptr<Encoded> encode(const ModelInputs& inputs, Trace* trace) override {
    const ThreadCount threads(model_->options.num_threads);
    const Workspace::Scope scope(model_->workspace);
    Sources sources = read_inputs(model_->spec, model_->shape, model_->weights, inputs,
                                  model_->workspace, &model_->cache);
    const int64_t batch = sources.at(0)->batch();
    const auto& plans = model_->encode_plans(batch, count_of(sources));
    Array latents = model_->initial_latents(batch);
    Encoding(*model_, trace).run(sources, plans, latents);
    if (!queries_need_inputs(model_->spec)) {
      sources.clear();
    }
    return std::make_unique<RuntimeEncoded>(model_, std::move(latents), std::move(sources));
  }

  ArrayMap decode(const Encoded& encoded, const OutputRequest& request, Trace* trace) override {
    const auto* ours = dynamic_cast<const RuntimeEncoded*>(&encoded);
    if (ours == nullptr || ours->model() != model_.get()) {
      throw Error(ErrorCode::kArgument, "these latents were encoded by another engine");
    }
    const ThreadCount threads(model_->options.num_threads);
    const Workspace::Scope scope(model_->workspace);
    check_request(model_->spec, request);
    if (model_->projection != nullptr) {
      return {{model_->spec.outputs.at(0).name,
               model_->projection->apply(ours->rows(), ours->batch(), model_->workspace)}};
    }
    return Decoding(*model_, *ours, request, trace, choices_).run();
  }

  std::unique_ptr<EncoderState> start_encoding(
      int64_t batch, const std::map<std::string, std::vector<int64_t>>& extents) override {
    const ThreadCount threads(model_->options.num_threads);
    const auto crosses = std::count_if(model_->steps.begin(), model_->steps.end(),
                                       [](const EncoderStep& step) { return step.cross; });
    if (crosses != 1) {
      throw Error(ErrorCode::kUnsupported,
                  cat("[encoder state] this encoder reads its inputs ", crosses,
                      " times, each time all of them; it can't take them in blocks"));
    }
    if (batch < 1) {
      throw Error(ErrorCode::kArgument, cat("[encoder state] a batch of ", batch));
    }
    model_->encode_plans(batch, -1);
    return std::make_unique<RuntimeState>(model_, batch, extents);
  }

  std::unique_ptr<Encoded> finish_encoding(const EncoderState& state) override {
    const auto* ours = dynamic_cast<const RuntimeState*>(&state);
    if (ours == nullptr || ours->model() != model_.get()) {
      throw Error(ErrorCode::kArgument,
                  "[encoder state] was started by another engine; load() here what it save()s");
    }
    const ThreadCount threads(model_->options.num_threads);
    const Workspace::Scope scope(model_->workspace);
    Array latents = ours->read();
    Encoding(*model_, nullptr).process_all(latents);
    return std::make_unique<RuntimeEncoded>(model_, std::move(latents), Sources());
  }

  std::vector<UsedPlan> plans() const override {
    std::vector<UsedPlan> used;
    for (const AttentionPlan& plan : model_->last_encode_plans()) {
      if (plan.attention.starts_with("encoder.")) {
        used.push_back({plan.attention, plan_name(plan.plan), plan.reason, plan.flops});
      }
    }
    for (const OutputChoice& choice : choices_) {
      const AttentionPlan plan = choice.scores.described();
      used.push_back({plan.attention, plan_name(plan.plan),
                      choices_.size() > 1 ? cat("output ", choice.output->name, ": ", plan.reason)
                                          : plan.reason,
                      plan.flops});
    }
    return used;
  }

 private:
  std::shared_ptr<RuntimeModel> model_;
  std::vector<OutputChoice> choices_;  ///< of the last decode
};

}  // namespace

std::unique_ptr<Engine> make_engine(const ModelSpec& spec, const ArrayMap& weights,
                                    const EngineOptions& options) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kBF16) {
    throw Error(ErrorCode::kUnsupported,
                cat("the runtime engine computes in F32 or BF16, not ", dtype_name(options.dtype)));
  }
  const std::string problem = kernels::kernel_problem();
  if (!problem.empty()) {
    throw Error(ErrorCode::kArgument, problem);
  }
  const ThreadCount threads(options.num_threads);
  return std::make_unique<RuntimeEngine>(std::make_shared<RuntimeModel>(spec, weights, options));
}

}  // namespace perceiver::runtime
