#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include "nn/decoder.h"
#include "nn/plans.h"
#include "nn/products.h"
#include "nn/recompute.h"
#include "nn/stems.h"
#include "nn/trace.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/attention.h"
#include "perceiver/nn/model.h"

namespace perceiver::nn {
namespace {

/// Bytes of the widest decoder intermediate at a time when the caller leaves the block size to us.
constexpr int64_t kDecodeBlockBytes = int64_t{64} << 20;
/// The same where rows are made again in the backward pass: on the CPU so small that they stay in
/// the cache; a GPU wants few calls on much data.
constexpr int64_t kCpuRecomputeBytes = int64_t{4} << 20;
constexpr int64_t kOtherRecomputeBytes = int64_t{64} << 20;

/// The latents as keys and values, by the plan of the decoder's attention.
struct DecoderKeys {
  Plan plan;
  AttentionModule::KeysValues textbook;
  AttentionModule::AbsorbedInputs absorbed;
};

struct DecodeParts {
  const StemContext& context;
  const AttentionModule& module;
  const DecoderKeys& latents;
  TensorTrace* trace;
  std::vector<at::Tensor> queries, rows, maps;  ///< only when traced
};

/// The attention of one output's rows.
class OutputAttention {
 public:
  OutputAttention(const DecodeParts& parts, const QueryRows& queries)
      : parts_(parts), queries_(queries) {
    const AttentionModule::AbsorbedInputs& latents = parts.latents.absorbed;
    if (parts.latents.plan == Plan::kTextbook) {
      return;
    }
    if (parts.latents.plan == Plan::kFactored) {
      factored_ = queries.factored();
    }
    keys_ = absorbed_keys(latents.keys, factored_.value_or(AbsorbedRows{}));
  }

  /// Whether the output projection is done, but for its bias.
  bool projected() const {
    return parts_.latents.plan != Plan::kTextbook && parts_.latents.absorbed.projected;
  }

  /// [B, end - begin, v], or [B, end - begin, E] when projected.
  at::Tensor rows(int64_t begin, int64_t end, at::Tensor* map) const {
    at::Tensor attended;
    if (parts_.latents.plan == Plan::kTextbook) {
      attended = parts_.module.attend_to(queries_.block(begin, end), parts_.latents.textbook, {},
                                         parts_.context.training, map);
    } else {
      const AttentionModule::AbsorbedInputs& latents = parts_.latents.absorbed;
      const AbsorbedRows block =
          factored_ ? narrow(*factored_, begin, end - begin)
                    : normalised_rows(queries_.block(begin, end),
                                      parts_.context.spec.compatibility.layer_norm_eps);
      const at::Tensor heads = ask_latents(block, keys_, latents.bias, latents.values);
      if (heads.size(1) == 1) {
        attended = heads.squeeze(1);
      } else {
        attended = latents.projected ? heads.sum({1}) : heads.transpose(1, 2).flatten(2, 3);
      }
    }
    const at::Tensor mask = queries_.mask(begin, end);
    return mask.defined() ? attended * mask.unsqueeze(-1).to(attended.scalar_type()) : attended;
  }

 private:
  const DecodeParts& parts_;
  const QueryRows& queries_;
  std::optional<AbsorbedRows> factored_;
  AbsorbedKeys keys_;
};

/// Rows whose widest intermediate fills `bytes`.
int64_t rows_in(int64_t bytes, const ModelShape& shape, int64_t batch) {
  const int64_t widest =
      std::max({shape.query_channels, shape.decoder_cross.qk_channels,
                shape.decoder_cross.v_channels, shape.decoder_cross.mlp_channels});
  return std::max<int64_t>(
      bytes / (static_cast<int64_t>(sizeof(float)) * std::max<int64_t>(widest * batch, 1)), 256);
}

/// Trainable tensors that finish() and head_rows() read.
std::vector<at::Tensor> tail_parameters(const Parameters& parameters, const OutputSpec& output) {
  const std::vector<std::string> beginnings{"decoder.cross_attend.output.",
                                            "decoder.cross_attend.norm_mlp.",
                                            "decoder.cross_attend.mlp_",
                                            "decoder.final.",
                                            cat("outputs.", output.name, ".head."),
                                            cat("inputs.", output.of_input, ".embedding.")};
  std::vector<at::Tensor> found;
  for (const Parameters::Entry& entry : parameters.entries()) {
    if (entry.tensor.requires_grad() &&
        std::any_of(beginnings.begin(), beginnings.end(), [&](const std::string& beginning) {
          return entry.info.name.starts_with(beginning);
        })) {
      found.push_back(entry.tensor);
    }
  }
  return found;
}

/// Training of a long output: the attention keeps its result, what follows keeps nothing.
at::Tensor decode_recomputing(const DecodeParts& parts, const OutputSpec& output,
                              const QueryRows& queries, int64_t block_rows) {
  const OutputAttention attention(parts, queries);
  std::vector<at::Tensor> rows{attention.rows(0, queries.count(), nullptr)};
  if (parts.context.shape.decoder_cross.use_query_residual) {
    rows.push_back(queries.block(0, queries.count()));
  }
  // copies: the backward pass comes when this walk is long over
  const RowsFunction tail = [context = parts.context, module = parts.module, &output,
                             projected = attention.projected()](const auto& block) {
    return head_rows(context, output,
                     module.finish(block[0], block.size() > 1 ? block[1] : at::Tensor(), projected,
                                   context.training, final_map(context)));
  };
  return recompute_rows(tail, rows, tail_parameters(parts.context.parameters, output), block_rows);
}

at::Tensor decode_blocks(DecodeParts& parts, const OutputSpec& output, const QueryRows& queries,
                         int64_t rows_per_block, const ProgressFn& progress) {
  const OutputAttention attention(parts, queries);
  const bool wants_map = wants(parts.trace, "attention.decoder");
  const bool wants_rows =
      wants(parts.trace, "decoder_queries") || wants(parts.trace, "decoder_output");
  const bool residual = parts.context.shape.decoder_cross.use_query_residual;
  const bool grad = at::GradMode::is_enabled();
  at::Tensor whole;
  std::vector<at::Tensor> blocks;
  for (int64_t begin = 0; begin < queries.count(); begin += rows_per_block) {
    const int64_t end = std::min(begin + rows_per_block, queries.count());
    at::Tensor map;
    const at::Tensor attended = attention.rows(begin, end, wants_map ? &map : nullptr);
    const at::Tensor block = residual || wants_rows ? queries.block(begin, end) : at::Tensor();
    // traced rows are those before the final map
    const AttentionModule::LastMap last = final_map(parts.context);
    at::Tensor rows =
        parts.module.finish(attended, block, attention.projected(), parts.context.training,
                            wants_rows ? AttentionModule::LastMap{} : last);
    if (wants_rows) {
      parts.queries.push_back(block);
      parts.rows.push_back(rows);
      rows = last.weight.defined() ? at::linear(rows, last.weight, last.bias) : rows;
    }
    if (wants_map) {
      parts.maps.push_back(map);
    }
    rows = head_rows(parts.context, output, rows);
    if (grad || end - begin == queries.count()) {
      blocks.push_back(rows);
    } else {  // one copy, no list of blocks
      if (!whole.defined()) {
        whole = at::empty({rows.size(0), queries.count(), rows.size(2)}, rows.options());
      }
      whole.narrow(1, begin, end - begin).copy_(rows);
    }
    if (progress) {
      progress({.what = output.name, .done = end, .total = queries.count(), .note = ""});
    }
  }
  return whole.defined() ? whole : (blocks.size() == 1 ? blocks[0] : at::cat(blocks, 1));
}

at::Tensor decode_output(DecodeParts& parts, const OutputSpec& output, const QueryRows& queries,
                         int64_t batch, const TensorRequest& request) {
  const StemContext& context = parts.context;
  const bool grad = at::GradMode::is_enabled();
  const bool on_cpu = context.options.device().is_cpu();
  const int64_t small =
      rows_in(on_cpu ? kCpuRecomputeBytes : kOtherRecomputeBytes, context.shape, batch);
  if (grad && request.rows_per_block == 0 && queries.count() > 2 * small &&
      parts.trace == nullptr && !(context.training && context.spec.compatibility.dropout > 0)) {
    const at::Tensor rows = decode_recomputing(parts, output, queries, small);
    if (request.progress) {
      request.progress(
          {.what = output.name, .done = queries.count(), .total = queries.count(), .note = ""});
    }
    return rows;
  }
  int64_t rows = request.rows_per_block;
  if (rows <= 0) {
    rows = grad ? std::max<int64_t>(queries.count(), 1)
                : rows_in(kDecodeBlockBytes, context.shape, batch);
  }
  return decode_blocks(parts, output, queries, rows, request.progress);
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
  const StemContext context{
      spec_, shape_, parameters_, training_, options_.tables, tensor_options(options_), *grids_};
  TensorMap outputs;
  decode_plans_.clear();
  if (spec_.decoder.kind == DecoderKind::kProjection) {
    const OutputSpec& output = spec_.outputs.at(0);
    const AttentionModule::LastMap last = final_map(context);
    const at::Tensor mean = latents.mean(1);
    outputs[output.name] = head_rows(
        context, output, last.weight.defined() ? at::linear(mean, last.weight, last.bias) : mean);
    return outputs;
  }
  std::vector<std::pair<const OutputSpec*, QueryRows>> asked;
  int64_t rows = 0;
  for (const QueryShape& query : shape_.outputs) {
    if (wanted(request, query.name)) {
      const OutputSpec& output = spec_.output(query.name);
      asked.emplace_back(&output, QueryRows(context, output, tokens, request, latents.size(0)));
      rows += asked.back().second.count();
    }
  }
  DecoderKeys keys{Plan::kTextbook, {}, {}};
  for (const AttentionPlan& plan : choose_plans(latents.size(0), -1, rows)) {
    if (plan.attention.starts_with("decoder.")) {
      keys.plan = wants(trace, "attention.decoder") ? Plan::kTextbook : plan.plan;
      decode_plans_.push_back({plan.attention, plan_name(keys.plan), plan.reason, plan.flops});
    }
  }
  const AttentionModule module(parameters_, "decoder.cross_attend", shape_.decoder_cross,
                               spec_.compatibility, product_order(options_.plan));
  if (keys.plan == Plan::kTextbook) {
    keys.textbook = module.keys_values(latents);
  } else {
    keys.absorbed = module.absorbed_inputs(latents);
  }
  DecodeParts parts{context, module, keys, trace, {}, {}, {}};
  for (const auto& [output, queries] : asked) {
    const at::Tensor decoded = decode_output(parts, *output, queries, latents.size(0), request);
    outputs[output->name] = shape_output(context, *output, queries, decoded);
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

}  // namespace perceiver::nn
