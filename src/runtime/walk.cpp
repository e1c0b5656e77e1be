#include "runtime/walk.h"

#include <algorithm>

#include "perceiver/base/str.h"
#include "runtime/grid_heads.h"
#include "runtime/rows.h"

namespace perceiver::runtime {
namespace {

/// Bytes of decoder rows between two calls of a progress function.
constexpr int64_t kProgressBytes = int64_t{64} << 20;

bool wants(const Trace* trace, const std::string& key) {
  if (trace == nullptr || (!trace->attention && key.starts_with("attention."))) {
    return false;
  }
  return trace->only.empty() ||
         std::any_of(trace->only.begin(), trace->only.end(),
                     [&](const std::string& beginning) { return key.starts_with(beginning); });
}

}  // namespace

int64_t count_of(const Sources& sources) {
  int64_t count = 0;
  for (const auto& source : sources) {
    count += source->count();
  }
  return count;
}

// ---- latents ----

RuntimeEncoded::RuntimeEncoded(std::shared_ptr<RuntimeModel> model, Array latents, Sources sources)
    : model_(std::move(model)), latents_(std::move(latents)), sources_(std::move(sources)) {}

RuntimeEncoded::~RuntimeEncoded() {
  if (prepared_ != nullptr) {
    model_->spare_prepared.give(std::move(prepared_));
  }
}

ConstMatrix RuntimeEncoded::rows() const {
  const int64_t width = latents_.size(2);
  return {latents_.data<float>(), batch() * latents_.size(1), width, width};
}

const Decoder::Prepared& RuntimeEncoded::prepared() const {
  if (prepared_ == nullptr) {
    prepared_ = model_->decoder->prepare(rows(), batch(), model_->options.plan, model_->workspace,
                                         model_->spare_prepared.take());
  }
  return *prepared_;
}

// ---- encode, process ----

Encoding::Encoding(RuntimeModel& model, Trace* trace) : model_(model), trace_(trace) {
  crosses_ = std::count_if(model.steps.begin(), model.steps.end(),
                           [](const EncoderStep& step) { return step.cross; });
}

void Encoding::run(const Sources& sources, const std::vector<AttentionPlan>& plans,
                   Array& latents) {
  record_tokens(sources);
  for (size_t step = 0; step < model_.steps.size(); ++step) {
    if (model_.steps[step].cross) {
      read(sources, plans, step, latents);
    } else {
      process(model_.steps[step], latents);
    }
  }
}

void Encoding::process_all(Array& latents) {
  for (const EncoderStep& step : model_.steps) {
    if (!step.cross) {
      process(step, latents);
    }
  }
}

void Encoding::record_tokens(const Sources& sources) {
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

void Encoding::read(const Sources& sources, const std::vector<AttentionPlan>& plans, size_t step,
                    Array& latents) {
  const EncoderStep& cross_step = model_.steps[step];
  const int64_t batch = latents.size(0);
  const CrossAttendIn& cross = model_.crosses[static_cast<size_t>(cross_step.weight_set)];
  const Plan plan = find_plan(plans, model_.cross_name(cross_step));
  std::shared_ptr<const CrossAttendIn::Queries> queries;
  if (step == 0) {
    queries = model_.first_queries(plan, batch);
  } else {
    std::shared_ptr<CrossAttendIn::Queries>& own = model_.later_queries[step];
    own = cross.prepare(rows_of(latents), batch, false, plan, model_.workspace, std::move(own));
    queries = own;
  }
  ReadState& state = model_.read_state;
  cross.empty(*queries, state);
  for (const auto& source : sources) {
    cross.read(*queries, *source, 0, source->count(), 0, state, model_.workspace);
  }
  record_map(sources, cross, *queries);
  cross.finish(*queries, state, rows_of(latents), model_.workspace);
  ++crosses_done_;
  record_latents(latents);
}

void Encoding::record_map(const Sources& sources, const CrossAttendIn& cross,
                          const CrossAttendIn::Queries& queries) {
  if (trace_ == nullptr) {
    return;
  }
  const std::string key =
      crosses_ == 1 ? "attention.encoder" : cat("attention.encoder.", crosses_done_);
  if (!wants(trace_, key)) {
    return;
  }
  const ReadState& state = model_.read_state;
  const int64_t total = count_of(sources);
  Array map = Array::zeros(DType::kF32, {state.batch, state.heads, state.latents, total});
  int64_t first = 0;
  for (const auto& source : sources) {
    cross.map(queries, *source, state, first, total, map.mutable_data<float>(), model_.workspace);
    first += source->count();
  }
  trace_->arrays[key] = map;
}

void Encoding::process(const EncoderStep& step, Array& latents) {
  const int64_t batch = latents.size(0), count = latents.size(1);
  const auto& layers = model_.blocks[static_cast<size_t>(step.weight_set)];
  const Workspace::Scope scope(model_.workspace);
  const Matrix kept = rows_of(latents);
  const bool apart = !layers.empty() && layers.front().wants_gaps();
  const Matrix rows = apart ? model_.workspace.matrix(kept.rows, kept.columns) : kept;
  if (apart) {
    copy_matrix(kept, rows);
  }
  for (const SelfAttendLayer& layer : layers) {
    const std::string key =
        trace_ == nullptr ? std::string() : cat("attention.self.", layers_done_);
    ++layers_done_;
    if (wants(trace_, key)) {
      Array map = Array::zeros(DType::kF32, {batch, model_.shape.self.num_heads, count, count});
      layer.apply(rows, batch, model_.workspace, map.mutable_data<float>());
      trace_->arrays[key] = map;
    } else {
      layer.apply(rows, batch, model_.workspace);
    }
    if (apart && (trace_ != nullptr || &layer == &layers.back())) {
      copy_matrix(rows, kept);
    }
    record_latents(latents);
  }
}

void Encoding::record_latents(const Array& latents) {
  const int64_t state = states_++;
  if (trace_ == nullptr) {
    return;
  }
  const std::string key = cat("latents.", state);
  if (wants(trace_, key)) {
    trace_->arrays[key] = latents.clone();
  }
}

// ---- decode ----

Decoding::Decoding(RuntimeModel& model, const RuntimeEncoded& encoded, const OutputRequest& request,
                   Trace* trace, std::vector<OutputChoice>& choices)
    : model_(model), encoded_(encoded), request_(request), trace_(trace), choices_(choices) {
  for (const QueryShape& query : model.shape.outputs) {
    if (request.only.empty() ||
        std::find(request.only.begin(), request.only.end(), query.name) != request.only.end()) {
      const OutputSpec& output = model.spec.output(query.name);
      outputs_.push_back({&output,
                          make_queries(model.spec, model.shape, model.weights, output,
                                       encoded.sources(), request, encoded.batch(), &model.cache),
                          total_});
      total_ += outputs_.back().queries->count();
    }
  }
}

ArrayMap Decoding::run() {
  make_traces();
  choices_.clear();
  ArrayMap results;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Output& output = outputs_[i];
    choices_.push_back(
        {output.spec, model_.decoder->choice(encoded_.prepared(), *output.spec, *output.queries)});
    Array rows = room(i);
    fill(i, rows);
    const bool whole = request_.points.count(output.spec->name) == 0;
    results[output.spec->name] = shape_output(model_.weights, *output.spec, output.queries->grid(),
                                              whole, std::move(rows), &model_.cache);
  }
  return results;
}

int64_t Decoding::block_rows(int64_t count) const {
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

void Decoding::make_traces() {
  const int64_t batch = encoded_.batch(), width = model_.shape.query_channels;
  const auto make = [&](const char* key, const auto&... extents) -> float* {
    if (trace_ == nullptr || !wants(trace_, key)) {
      return nullptr;
    }
    Array& array = trace_->arrays[key];
    array = Array::zeros(DType::kF32, {extents...});
    return array.mutable_data<float>();
  };
  queries_ = make("decoder_queries", batch, total_, width);
  rows_ = make("decoder_output", batch, total_, model_.shape.decoder_cross.query_channels);
  map_ = make("attention.decoder", batch, model_.shape.decoder_cross.num_heads, total_,
              model_.spec.encoder.num_latents);
}

Array Decoding::room(size_t output) const {
  const Output& own = outputs_[output];
  return Array::zeros(DType::kF32, {encoded_.batch(), own.queries->count(),
                                    model_.decoder->row_channels(*own.spec)});
}

void Decoding::fill(size_t index, Array& rows) {
  const Output& output = outputs_[index];
  const int64_t count = output.queries->count(), batch = encoded_.batch(), width = rows.size(2);
  float* out = rows.mutable_data<float>();
  const int64_t step = block_rows(count);
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t end = std::min(begin + step, count);
    for (int64_t b = 0; b < batch; ++b) {
      const Workspace::Scope scope(model_.workspace);
      const Matrix block{out + (b * count + begin) * width, end - begin, width, width};
      model_.decoder->rows(encoded_.prepared(), *output.spec, *output.queries, b, begin, end, block,
                           model_.workspace, traced_rows(b, output.first + begin, end - begin));
      trace_queries(output, b, begin, end);
    }
    if (request_.progress) {
      request_.progress({.what = output.spec->name, .done = end, .total = count, .note = ""});
    }
  }
}

Matrix Decoding::traced_rows(int64_t b, int64_t first, int64_t count) const {
  if (rows_ == nullptr) {
    return {};
  }
  const int64_t width = model_.shape.decoder_cross.query_channels;
  return {rows_ + (b * total_ + first) * width, count, width, width};
}

void Decoding::trace_queries(const Output& output, int64_t b, int64_t begin, int64_t end) {
  const int64_t width = model_.shape.query_channels, at = output.first + begin;
  if (queries_ != nullptr) {
    output.queries->dense(b, begin, end,
                          {queries_ + (b * total_ + at) * width, end - begin, width, width});
  }
  if (map_ != nullptr) {
    const int64_t latents = model_.spec.encoder.num_latents;
    const int64_t heads = model_.shape.decoder_cross.num_heads;
    model_.decoder->map(encoded_.prepared(), *output.queries, b, begin, end,
                        map_ + (b * heads * total_ + at) * latents, total_ * latents,
                        model_.workspace);
  }
}

}  // namespace perceiver::runtime
