#include "perceiver/runtime/engine.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/tokens/encoder_state.h"
#include "runtime/encoder_state.h"
#include "runtime/grid_heads.h"
#include "runtime/model.h"
#include "runtime/threads.h"

namespace perceiver::runtime {
namespace {

/// Bytes of decoder rows between two calls of a progress function.
constexpr int64_t kProgressBytes = int64_t{64} << 20;

/// Whether the decoder looks at the inputs again, or must know how many there were.
bool queries_need_inputs(const ModelSpec& spec) {
  return std::any_of(spec.outputs.begin(), spec.outputs.end(), [](const OutputSpec& output) {
    return output.concat_input || output.query == QueryKind::kInputTokens ||
           output.query == QueryKind::kInputContent || output.head == HeadKind::kTiedEmbedding;
  });
}

bool wants(const Trace* trace, const std::string& key) {
  if (trace == nullptr || (!trace->attention && key.starts_with("attention."))) {
    return false;
  }
  return trace->only.empty() ||
         std::any_of(trace->only.begin(), trace->only.end(),
                     [&](const std::string& beginning) { return key.starts_with(beginning); });
}

void record(Trace* trace, const std::string& key, const Array& value) {
  if (wants(trace, key)) {
    trace->arrays[key] = value.clone();
  }
}

using Sources = std::vector<std::unique_ptr<TokenSource>>;

int64_t count_of(const Sources& sources) {
  int64_t count = 0;
  for (const auto& source : sources) {
    count += source->count();
  }
  return count;
}

class RuntimeEncoded : public Encoded {
 public:
  RuntimeEncoded(std::shared_ptr<RuntimeModel> model, Array latents, Sources sources)
      : model_(std::move(model)), latents_(std::move(latents)), sources_(std::move(sources)) {}
  Array latents() const override { return latents_; }

  const RuntimeModel* model() const { return model_.get(); }
  int64_t batch() const { return latents_.size(0); }
  const Sources& sources() const { return sources_; }
  ConstMatrix rows() const {
    const int64_t width = latents_.size(2);
    return {latents_.data<float>(), batch() * latents_.size(1), width, width};
  }
  /// Keys and values of these latents, made once per plan.
  const Decoder::Prepared& prepared(Plan plan) const {
    auto& kept = prepared_[plan];
    if (kept == nullptr) {
      kept = model_->decoder->prepare(rows(), batch(), plan, model_->workspace);
    }
    return *kept;
  }

 private:
  std::shared_ptr<RuntimeModel> model_;  // the sources view its weights
  Array latents_;
  Sources sources_;
  mutable std::map<Plan, std::shared_ptr<const Decoder::Prepared>> prepared_;
};

/// One walk through the encoder's steps.
class Encoding {
 public:
  Encoding(RuntimeModel& model, Trace* trace) : model_(model), trace_(trace) {
    crosses_ = std::count_if(model.steps.begin(), model.steps.end(),
                             [](const EncoderStep& step) { return step.cross; });
  }

  Array run(const Sources& sources, const std::vector<AttentionPlan>& plans) {
    const int64_t batch = sources.at(0)->batch();
    record_tokens(sources);
    Array latents = model_.initial_latents(batch);
    for (size_t step = 0; step < model_.steps.size(); ++step) {
      if (model_.steps[step].cross) {
        read(sources, plans, step, latents);
      } else {
        process(model_.steps[step], latents);
      }
    }
    return latents;
  }

  /// Goes on after the cross-attend that an EncoderState has done.
  void process_all(Array& latents) {
    for (const EncoderStep& step : model_.steps) {
      if (!step.cross) {
        process(step, latents);
      }
    }
  }

 private:
  void record_tokens(const Sources& sources) {
    if (!wants(trace_, "tokens")) {
      return;
    }
    const int64_t batch = sources.at(0)->batch(), width = model_.shape.input_channels;
    const int64_t total = count_of(sources);
    Array tokens = Array::zeros(DType::kF32, {batch, total, width});
    float* out = tokens.mutable_data<float>();
    int64_t first = 0;
    for (const auto& source : sources) {
      for (int64_t b = 0; b < batch; ++b) {
        source->dense(b, 0, source->count(),
                      {out + (b * total + first) * width, source->count(), width, width});
      }
      first += source->count();
    }
    trace_->arrays["tokens"] = tokens;
  }

  void read(const Sources& sources, const std::vector<AttentionPlan>& plans, size_t step,
            Array& latents) {
    const int64_t set = model_.steps[step].weight_set, batch = latents.size(0);
    const CrossAttendIn& cross = model_.crosses[static_cast<size_t>(set)];
    const Plan plan = find_plan(plans, cat("encoder.cross_attend.", set));
    const auto queries =
        step == 0 ? model_.first_queries(plan, batch)
                  : cross.prepare(rows_of(latents), batch, false, plan, model_.workspace);
    ReadState state;
    for (const auto& source : sources) {
      cross.read(*queries, *source, 0, source->count(), 0, state, model_.workspace);
    }
    const std::string key =
        crosses_ == 1 ? "attention.encoder" : cat("attention.encoder.", crosses_done_);
    if (wants(trace_, key)) {
      const int64_t total = count_of(sources);
      Array map = Array::zeros(DType::kF32, {batch, state.heads, state.latents, total});
      int64_t first = 0;
      for (const auto& source : sources) {
        cross.map(*queries, *source, state, first, total, map.mutable_data<float>(),
                  model_.workspace);
        first += source->count();
      }
      trace_->arrays[key] = map;
    }
    cross.finish(*queries, state, rows_of(latents), model_.workspace);
    ++crosses_done_;
    record(trace_, cat("latents.", states_++), latents);
  }

  void process(const EncoderStep& step, Array& latents) {
    const int64_t batch = latents.size(0), count = latents.size(1);
    for (const SelfAttendLayer& layer : model_.blocks[static_cast<size_t>(step.weight_set)]) {
      const std::string key = cat("attention.self.", layers_done_++);
      if (wants(trace_, key)) {
        Array map = Array::zeros(DType::kF32, {batch, model_.shape.self.num_heads, count, count});
        layer.apply(rows_of(latents), batch, model_.workspace, map.mutable_data<float>());
        trace_->arrays[key] = map;
      } else {
        layer.apply(rows_of(latents), batch, model_.workspace);
      }
      record(trace_, cat("latents.", states_++), latents);
    }
  }

  RuntimeModel& model_;
  Trace* trace_;
  int64_t crosses_ = 0, crosses_done_ = 0, layers_done_ = 0, states_ = 0;
};

/// One call of decode(): every asked output's rows, block by block.
class Decoding {
 public:
  Decoding(RuntimeModel& model, const RuntimeEncoded& encoded, const OutputRequest& request,
           Trace* trace)
      : model_(model), encoded_(encoded), request_(request), trace_(trace) {
    for (const QueryShape& query : model.shape.outputs) {
      if (request.only.empty() ||
          std::find(request.only.begin(), request.only.end(), query.name) != request.only.end()) {
        const OutputSpec& output = model.spec.output(query.name);
        outputs_.push_back(
            {&output, make_queries(model.spec, model.shape, model.weights, output,
                                   encoded.sources(), request, encoded.batch(), &model.cache)});
        total_ += outputs_.back().queries->count();
      }
    }
  }

  int64_t total() const { return total_; }

  /// How each output's scores are computed, once run.
  const std::vector<UsedPlan>& plans() const { return plans_; }

  ArrayMap run(Plan plan) {
    prepared_ = &encoded_.prepared(plan);
    make_traces();
    ArrayMap results;
    int64_t first = 0;  // row of the first output's first row, all outputs side by side
    for (Output& output : outputs_) {
      note_plan(output);
      Array rows = decode(output, first);
      first += output.queries->count();
      const bool whole = request_.points.count(output.spec->name) == 0;
      results[output.spec->name] = shape_output(model_.weights, *output.spec,
                                                output.queries->grid(), whole, std::move(rows));
    }
    return results;
  }

 private:
  struct Output {
    const OutputSpec* spec;
    std::unique_ptr<TokenSource> queries;
  };

  void note_plan(const Output& output) {
    const AttentionPlan plan = model_.decoder->plan_of(*prepared_, *output.spec, *output.queries);
    const bool several = outputs_.size() > 1;
    plans_.push_back({"decoder.cross_attend", plan_name(plan.plan),
                      several ? cat("output ", output.spec->name, ": ", plan.reason) : plan.reason,
                      plan.flops});
  }

  int64_t block_rows(int64_t count) const {
    if (request_.rows_per_block > 0) {
      return request_.rows_per_block;
    }
    if (!request_.progress) {
      return std::max<int64_t>(count, 1);  // the decoder streams by itself
    }
    const AttentionShape& a = model_.shape.decoder_cross;
    const int64_t widest =
        std::max({model_.shape.query_channels, a.qk_channels, a.v_channels, a.mlp_channels});
    const int64_t bytes = static_cast<int64_t>(sizeof(float)) * widest * encoded_.batch();
    return std::max<int64_t>(kProgressBytes / std::max<int64_t>(bytes, 1), 256);
  }

  void make_traces() {
    const int64_t batch = encoded_.batch(), width = model_.shape.query_channels;
    const auto make = [&](const char* key, std::vector<int64_t> shape) -> float* {
      if (!wants(trace_, key)) {
        return nullptr;
      }
      return (trace_->arrays[key] = Array::zeros(DType::kF32, std::move(shape)))
          .mutable_data<float>();
    };
    queries_ = make("decoder_queries", {batch, total_, width});
    rows_ = make("decoder_output", {batch, total_, model_.shape.decoder_cross.query_channels});
    map_ = make("attention.decoder", {batch, model_.shape.decoder_cross.num_heads, total_,
                                      model_.spec.encoder.num_latents});
  }

  Array decode(Output& output, int64_t first) {
    const int64_t count = output.queries->count(), batch = encoded_.batch();
    const int64_t width = model_.decoder->row_channels(*output.spec);
    Array rows = Array::zeros(DType::kF32, {batch, count, width});
    float* out = rows.mutable_data<float>();
    const int64_t step = block_rows(count);
    for (int64_t begin = 0; begin < count; begin += step) {
      const int64_t end = std::min(begin + step, count);
      for (int64_t b = 0; b < batch; ++b) {
        const Workspace::Scope scope(model_.workspace);
        const Matrix block{out + (b * count + begin) * width, end - begin, width, width};
        model_.decoder->rows(*prepared_, *output.spec, *output.queries, b, begin, end, block,
                             model_.workspace, traced_rows(b, first + begin, end - begin));
        trace_queries(*output.queries, b, begin, end, first);
      }
      if (request_.progress) {
        request_.progress({.what = output.spec->name, .done = end, .total = count, .note = ""});
      }
    }
    return rows;
  }

  Matrix traced_rows(int64_t b, int64_t first, int64_t count) const {
    if (rows_ == nullptr) {
      return {};
    }
    const int64_t width = model_.shape.decoder_cross.query_channels;
    return {rows_ + (b * total_ + first) * width, count, width, width};
  }

  void trace_queries(TokenSource& queries, int64_t b, int64_t begin, int64_t end, int64_t first) {
    const int64_t width = model_.shape.query_channels, at = first + begin;
    if (queries_ != nullptr) {
      queries.dense(b, begin, end,
                    {queries_ + (b * total_ + at) * width, end - begin, width, width});
    }
    if (map_ != nullptr) {
      const int64_t latents = model_.spec.encoder.num_latents;
      const int64_t heads = model_.shape.decoder_cross.num_heads;
      model_.decoder->map(*prepared_, queries, b, begin, end,
                          map_ + (b * heads * total_ + at) * latents, total_ * latents,
                          model_.workspace);
    }
  }

  RuntimeModel& model_;
  const RuntimeEncoded& encoded_;
  const OutputRequest& request_;
  Trace* trace_;
  std::vector<Output> outputs_;
  int64_t total_ = 0;
  const Decoder::Prepared* prepared_ = nullptr;
  std::vector<UsedPlan> plans_;
  float *queries_ = nullptr, *rows_ = nullptr, *map_ = nullptr;
};

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
        find_plan(model_->encode_plans(batch, -1), cat("encoder.cross_attend.", set_)), batch);
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
    const auto& plans = model_->encode_plans(sources.at(0)->batch(), count_of(sources));
    keep_encode_plans(plans);
    Array latents = Encoding(*model_, trace).run(sources, plans);
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
    Decoding decoding(*model_, *ours, request, trace);
    ArrayMap results = decoding.run(model_->options.plan);
    decode_plans_ = decoding.plans();
    return results;
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
    keep_encode_plans(model_->encode_plans(batch, -1));
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
    std::vector<UsedPlan> both = encode_plans_;
    both.insert(both.end(), decode_plans_.begin(), decode_plans_.end());
    return both;
  }

 private:
  void keep_encode_plans(const std::vector<AttentionPlan>& plans) {
    encode_plans_.clear();
    for (const AttentionPlan& plan : plans) {
      if (plan.attention.starts_with("encoder.")) {
        encode_plans_.push_back({plan.attention, plan_name(plan.plan), plan.reason, plan.flops});
      }
    }
  }

  std::shared_ptr<RuntimeModel> model_;
  std::vector<UsedPlan> encode_plans_, decode_plans_;
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
