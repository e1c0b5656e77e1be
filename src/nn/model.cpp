#include "perceiver/nn/model.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include "nn/decoder.h"
#include "nn/stems.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::nn {
namespace {

/// Bytes of decoder intermediates at a time when the caller leaves the block size to us.
constexpr int64_t kDecodeBlockBytes = int64_t{64} << 20;

Parameters make_parameters(const ModelSpec& spec, const ArrayMap& weights,
                           const ModelOptions& options) {
  check_parameters(spec, weights, spec.name.empty() ? "weights" : spec.name);
  Parameters parameters;
  for (const ParameterInfo& info : parameter_table(spec)) {
    const at::Tensor given = to_tensor(weights.at(info.name));
    const at::ScalarType type = info.dtype == DType::kI64 ? at::kLong : options.dtype;
    const bool shares = given.scalar_type() == type && options.device.is_cpu();
    // training writes into its weights, so they must not be the caller's
    parameters.add(
        info, shares && !options.share_weights ? given.clone() : given.to(options.device, type));
  }
  return parameters;
}

bool key_mask_needed(const TokenArray& tokens) {
  return std::any_of(tokens.segments.begin(), tokens.segments.end(),
                     [](const TokenSegment& s) { return s.mask.defined(); });
}

/// Masks of all modalities side by side: [B, M] bool, or undefined when none has one.
at::Tensor joint_mask(const TokenArray& tokens, int64_t batch, const at::Device& device) {
  if (!key_mask_needed(tokens)) {
    return {};
  }
  std::vector<at::Tensor> masks;
  for (const TokenSegment& segment : tokens.segments) {
    masks.push_back(segment.mask.defined()
                        ? segment.mask
                        : at::empty({batch, segment.tokens},
                                    at::TensorOptions().dtype(at::kBool).device(device))
                              .fill_(true));
  }
  return at::cat(masks, 1);
}

bool wants(const TensorTrace* trace, const std::string& key) {
  if (trace == nullptr || (!trace->attention && key.starts_with("attention."))) {
    return false;
  }
  return trace->only.empty() ||
         std::any_of(trace->only.begin(), trace->only.end(),
                     [&](const std::string& beginning) { return key.starts_with(beginning); });
}

void record(TensorTrace* trace, const std::string& key, const at::Tensor& value) {
  if (wants(trace, key)) {
    trace->tensors[key] = value;
  }
}

int64_t batch_of(const TokenSegment& segment) {
  return segment.content.defined() ? segment.content.size(0) : segment.positions.size(0);
}

/// Appends `rows` [B, n, c] at `begin` of `all`; one copy, no list of blocks, when gradients are
/// off.
class RowCollector {
 public:
  explicit RowCollector(int64_t count) : count_(count) {}
  void add(const at::Tensor& rows, int64_t begin) {
    if (rows.size(1) == count_) {
      whole_ = rows;
    } else if (at::GradMode::is_enabled()) {
      blocks_.push_back(rows);
    } else {
      if (!whole_.defined()) {
        whole_ = at::empty({rows.size(0), count_, rows.size(2)}, rows.options());
      }
      whole_.narrow(1, begin, rows.size(1)).copy_(rows);
    }
  }
  at::Tensor take() { return blocks_.empty() ? whole_ : at::cat(blocks_, 1); }

 private:
  int64_t count_;
  at::Tensor whole_;
  std::vector<at::Tensor> blocks_;
};

}  // namespace

Model::Model(const ModelSpec& spec, const ArrayMap& weights, const ModelOptions& options)
    : spec_(spec),
      shape_(resolve(spec)),
      options_(options),
      parameters_(make_parameters(spec, weights, options)) {}

namespace {

StemContext stem_context(const ModelSpec& spec, const ModelShape& shape, Parameters& parameters,
                         bool training, const ModelOptions& options) {
  return {spec,           shape,
          parameters,     training,
          options.tables, at::TensorOptions().dtype(options.dtype).device(options.device)};
}

}  // namespace

TokenArray Model::preprocess(const TensorInputs& inputs) {
  for (const auto& [name, unused] : inputs.arrays) {
    spec_.input(name);  // throws on a name the model does not read
  }
  const StemContext context = stem_context(spec_, shape_, parameters_, training_, options_);
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
    parts.push_back(dense_tokens(segment));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

at::Tensor Model::encode(const TokenArray& tokens, TensorTrace* trace) {
  const int64_t batch = batch_of(tokens.segments.at(0));
  const at::Tensor key_mask = joint_mask(tokens, batch, options_.device);
  at::Tensor inputs = dense(tokens);
  record(trace, "tokens", inputs);
  const std::vector<EncoderStep> steps = encoder_steps(spec_.encoder);
  const int64_t crosses =
      std::count_if(steps.begin(), steps.end(), [](const EncoderStep& s) { return s.cross; });
  at::Tensor latents = parameters_.at("latents").unsqueeze(0).expand({batch, -1, -1});
  int64_t crosses_done = 0;
  int64_t layers_done = 0;
  int64_t states = 0;
  for (const EncoderStep& step : steps) {
    if (step.cross) {
      const AttentionModule module(parameters_, cat("encoder.cross_attend.", step.weight_set),
                                   shape_.encoder_cross, spec_.compatibility);
      const AttentionModule::KeysValues keys_values = module.keys_values(inputs);
      if (++crosses_done == crosses) {
        inputs = at::Tensor();  // the last reader frees the largest array of the pass
      }
      at::Tensor map;
      latents = module.cross_attend(latents, keys_values, key_mask, {}, training_,
                                    wants(trace, "attention.encoder") ? &map : nullptr);
      if (map.defined()) {
        record(trace,
               crosses == 1 ? "attention.encoder" : cat("attention.encoder.", crosses_done - 1),
               map);
      }
      record(trace, cat("latents.", states++), latents);
      continue;
    }
    for (int64_t layer = 0; layer < spec_.encoder.num_self_attends_per_block; ++layer) {
      const AttentionModule module(parameters_, cat("encoder.block.", step.weight_set, ".", layer),
                                   shape_.self, spec_.compatibility);
      at::Tensor map;
      latents =
          module.self_attend(latents, training_, wants(trace, "attention.self") ? &map : nullptr);
      if (map.defined()) {
        record(trace, cat("attention.self.", layers_done), map);
      }
      ++layers_done;
      record(trace, cat("latents.", states++), latents);
    }
  }
  return latents;
}

namespace {

struct DecodeParts {
  const StemContext& context;
  const AttentionModule& module;
  const AttentionModule::KeysValues& latents;
  TensorTrace* trace;
  std::vector<at::Tensor> queries, rows, maps;  ///< only when traced
};

int64_t block_rows(const TensorRequest& request, const ModelShape& shape, int64_t batch,
                   int64_t count) {
  if (request.rows_per_block > 0) {
    return request.rows_per_block;
  }
  if (at::GradMode::is_enabled()) {
    return std::max<int64_t>(count, 1);
  }
  const int64_t widest =
      std::max({shape.query_channels, shape.decoder_cross.qk_channels,
                shape.decoder_cross.v_channels, shape.decoder_cross.mlp_channels});
  return std::max<int64_t>(kDecodeBlockBytes / (static_cast<int64_t>(sizeof(float)) *
                                                std::max<int64_t>(widest * batch, 1)),
                           256);
}

at::Tensor decode_output(DecodeParts& parts, const OutputSpec& output, const QueryRows& queries,
                         int64_t rows_per_block, const ProgressFn& progress) {
  RowCollector collected(queries.count());
  for (int64_t begin = 0; begin < queries.count(); begin += rows_per_block) {
    const int64_t end = std::min(begin + rows_per_block, queries.count());
    const at::Tensor block = queries.block(begin, end);
    at::Tensor map;
    const bool wants_map = wants(parts.trace, "attention.decoder");
    at::Tensor rows = parts.module.cross_attend(block, parts.latents, {}, queries.mask(begin, end),
                                                parts.context.training, wants_map ? &map : nullptr);
    if (wants(parts.trace, "decoder_queries") || wants(parts.trace, "decoder_output")) {
      parts.queries.push_back(block);
      parts.rows.push_back(rows);
    }
    if (wants_map) {
      parts.maps.push_back(map);
    }
    collected.add(project_rows(parts.context, output, std::move(rows)), begin);
    if (progress) {
      progress({.what = output.name, .done = end, .total = queries.count(), .note = ""});
    }
  }
  return collected.take();
}

bool wanted(const TensorRequest& request, const std::string& name) {
  return request.only.empty() ||
         std::find(request.only.begin(), request.only.end(), name) != request.only.end();
}

void check_request(const ModelSpec& spec, const TensorRequest& request) {
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

}  // namespace

TensorMap Model::decode(const at::Tensor& latents, const TokenArray& tokens,
                        const TensorRequest& request, TensorTrace* trace) {
  check_request(spec_, request);
  const StemContext context = stem_context(spec_, shape_, parameters_, training_, options_);
  TensorMap outputs;
  if (spec_.decoder.kind == DecoderKind::kProjection) {
    const OutputSpec& output = spec_.outputs.at(0);
    outputs[output.name] = project_rows(context, output, latents.mean(1));
    return outputs;
  }
  const AttentionModule module(parameters_, "decoder.cross_attend", shape_.decoder_cross,
                               spec_.compatibility);
  const AttentionModule::KeysValues keys_values = module.keys_values(latents);
  DecodeParts parts{context, module, keys_values, trace, {}, {}, {}};
  for (const QueryShape& query : shape_.outputs) {
    if (!wanted(request, query.name)) {
      continue;
    }
    const OutputSpec& output = spec_.output(query.name);
    const QueryRows queries(context, output, tokens, request, latents.size(0));
    const int64_t rows = block_rows(request, shape_, latents.size(0), queries.count());
    const at::Tensor decoded = decode_output(parts, output, queries, rows, request.progress);
    outputs[query.name] = shape_output(context, output, queries, decoded);
  }
  if (!parts.queries.empty()) {
    record(trace, "decoder_queries", at::cat(parts.queries, 1));
    record(trace, "decoder_output", at::cat(parts.rows, 1));
  }
  if (!parts.maps.empty()) {
    record(trace, "attention.decoder", at::cat(parts.maps, 2));
  }
  return outputs;
}

TensorMap Model::forward(const TensorInputs& inputs, const TensorRequest& request,
                         TensorTrace* trace) {
  const TokenArray tokens = preprocess(inputs);
  const at::Tensor latents = encode(tokens, trace);
  return decode(latents, tokens, request, trace);
}

}  // namespace perceiver::nn
