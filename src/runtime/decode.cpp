#include "runtime/decode.h"

#include <algorithm>
#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/decode_parts.h"

namespace perceiver::runtime {
namespace {

const std::string kModule = "decoder.cross_attend";

Affine normed(const Weights& weights, const char* linear, const char* norm) {
  Affine affine = weights.affine(cat(kModule, ".", linear));
  affine.fold_norm(weights.data(cat(kModule, ".", norm, ".weight")),
                   weights.data(cat(kModule, ".", norm, ".bias")));
  return affine;
}

RowTail make_tail(const Weights& weights, const ModelSpec& spec, const OutputSpec& output,
                  DecoderWeights& shared) {
  std::vector<Affine> chain;
  std::optional<Affine> last;
  if (spec.decoder.final_project) {
    chain.push_back(weights.affine("decoder.final"));
  }
  const std::string head = cat("outputs.", output.name, ".head");
  switch (output.head) {
    case HeadKind::kLinear:
      chain.push_back(weights.affine(head));
      break;
    case HeadKind::kMlp:
      chain.push_back(weights.affine(head + ".0"));
      last = weights.affine(head + ".1");
      break;
    case HeadKind::kTiedEmbedding: {
      const Array& table = weights.at(cat("inputs.", output.of_input, ".embedding.weight"));
      const Array& bias = weights.at(head + ".bias");
      Affine tied{table.size(0), table.size(1), {}, {}};
      tied.weight.assign(table.data<float>(), table.data<float>() + table.numel());
      tied.bias.assign(bias.data<float>(), bias.data<float>() + bias.numel());
      chain.push_back(std::move(tied));
      break;
    }
    default:
      break;
  }
  return {shared, std::move(chain), std::move(last)};
}

void release(Weights& weights) {
  for (const char* part : {"norm_queries", "norm_inputs", "query", "key", "value", "output",
                           "norm_mlp", "mlp_in", "mlp_out"}) {
    weights.release(cat(kModule, ".", part, ".weight"));
    weights.release(cat(kModule, ".", part, ".bias"));
  }
}

}  // namespace

Decoder::Decoder(Weights& weights, const ModelSpec& spec, const ModelShape& shape,
                 Precision precision)
    : parts_(std::make_unique<Parts>()) {
  DecoderWeights& shared = parts_->weights;
  shared.shape = shape.decoder_cross;
  shared.activation = spec.compatibility.activation;
  shared.eps = static_cast<float>(spec.compatibility.layer_norm_eps);
  shared.precision = precision;
  parts_->query = normed(weights, "query", "norm_queries");
  const Affine key = normed(weights, "key", "norm_inputs");
  const Affine value = normed(weights, "value", "norm_inputs");
  parts_->key_value = Linear(stack({&key, &value}), precision);
  shared.output = weights.affine(kModule + ".output");
  shared.mlp_in = normed(weights, "mlp_in", "norm_mlp");
  shared.mlp_out = weights.affine(kModule + ".mlp_out");
  for (const OutputSpec& output : spec.outputs) {
    parts_->tails.emplace(output.name, make_tail(weights, spec, output, shared));
  }
  release(weights);
}

Decoder::~Decoder() = default;

void Decoder::limit_scratch(int64_t bytes) {
  parts_->scratch_bytes = bytes;
}

int64_t Decoder::row_channels(const OutputSpec& output) const {
  return parts_->tails.at(output.name).channels();
}

const Linear& Decoder::Parts::packed_query() {
  if (!query_linear) {
    query_linear.emplace(query, weights.precision);
  }
  return *query_linear;
}

std::shared_ptr<Decoder::Prepared> Decoder::prepare(ConstMatrix latents, int64_t batch, Plan plan,
                                                    Workspace& workspace,
                                                    std::shared_ptr<Prepared> reused) const {
  const Parts& parts = *parts_;
  std::shared_ptr<Prepared> prepared =
      reused != nullptr ? std::move(reused) : std::make_shared<Prepared>();
  prepared->has_keys = prepared->has_values = false;
  for (const auto& output : prepared->factored) {
    output->current = false;
  }
  prepared->plan = plan;
  prepared->batch = batch;
  prepared->latents = latents.rows / batch;
  prepared->width = parts.key_value.out();
  prepared->keys_values.resize(static_cast<size_t>(latents.rows * prepared->width));
  const Workspace::Scope scope(workspace);
  const Matrix normalised = workspace.dense(latents.rows, latents.columns);
  kernels::normalise_rows(latents.rows, latents.columns, latents.data, latents.stride,
                          parts.weights.eps, normalised.data, normalised.stride);
  const Matrix both{prepared->keys_values.data(), latents.rows, prepared->width, prepared->width};
  parts.key_value.apply(normalised, both);
  const float scale = 1 / std::sqrt(static_cast<float>(parts.qk_dim()));
  for (int64_t i = 0; i < both.rows; ++i) {
    for (int64_t c = 0; c < parts.shape().qk_channels; ++c) {
      both.row(i)[c] *= scale;
    }
  }
  return prepared;
}

void Decoder::Prepared::absorb_keys(const Parts& parts) const {
  if (has_keys) {
    return;
  }
  has_keys = true;
  const int64_t heads = parts.shape().num_heads, rows = parts.shape().query_channels;
  const int64_t dk = parts.qk_dim();
  keys.resize(static_cast<size_t>(batch * heads * latents * rows));
  key_bias.resize(static_cast<size_t>(batch * heads * latents));
  for (int64_t i = 0; i < batch * heads; ++i) {
    const int64_t h = i % heads;
    const ConstMatrix key = example(i / heads).slice(h * dk, dk);
    const Matrix absorbed{keys.data() + i * latents * rows, latents, rows, rows};
    multiply(key, {parts.query.weight.data() + h * dk * rows, dk, rows, rows}, absorbed);
    // the rows of queries lose their mean in LayerNorm: so may what they are multiplied with
    centre_rows(absorbed);
    multiply_transposed(key, {parts.query.bias.data() + h * dk, 1, dk, dk},
                        {key_bias.data() + i * latents, latents, 1, 1});
  }
}

void Decoder::Prepared::compose_values(const Parts& parts) const {
  if (has_values) {
    return;
  }
  has_values = true;
  const AttentionShape& shape = parts.shape();
  const int64_t heads = shape.num_heads, dv = parts.v_dim(), rows = shape.output_channels;
  const Affine& output = parts.weights.output;
  values.resize(static_cast<size_t>(batch * heads * latents * rows));
  for (int64_t i = 0; i < batch * heads; ++i) {
    const int64_t h = i % heads;
    const Matrix composed{values.data() + i * latents * rows, latents, rows, rows};
    multiply_transposed(example(i / heads).slice(shape.qk_channels + h * dv, dv),
                        {output.weight.data() + h * dv, rows, dv, shape.v_channels}, composed);
    for (int64_t n = 0; n < latents && h == 0 && !output.bias.empty(); ++n) {
      for (int64_t c = 0; c < rows; ++c) {
        composed.row(n)[c] += output.bias[static_cast<size_t>(c)];
      }
    }
  }
}

const FactoredTables& Decoder::Prepared::of_queries(const Parts& parts, const std::string& output,
                                                    const TokenSource& queries,
                                                    Workspace& workspace) const {
  FactoredTables& own = tables_of(factored, output, queries);
  if (own.current) {
    return own;
  }
  absorb_keys(parts);
  const int64_t heads = parts.shape().num_heads, row = parts.shape().query_channels;
  own.tables.resize(static_cast<size_t>(own.factors.num_axes()));
  for (int axis = 0; axis < own.factors.num_axes(); ++axis) {
    const int64_t extent = own.factors.extent(axis);
    std::vector<float>& table = own.tables[static_cast<size_t>(axis)];
    table.resize(static_cast<size_t>(batch * heads * extent * latents));
    for (int64_t i = 0; i < batch * heads; ++i) {
      own.factors.table_by_coordinate(
          axis, {keys.data() + i * latents * row, latents, row, row},
          {table.data() + i * extent * latents, extent, latents, latents}, workspace);
    }
  }
  own.current = true;
  return own;
}

bool Decoder::Parts::keeps(const TokenSource& queries, const std::string& output) const {
  return queries.is_constant() &&
         (constant_queries.contains(output) ||
          constant_bytes + queries.count() * shape().qk_channels * 4 <= kMaxKept);
}

const float* Decoder::Parts::constant_rows(TokenSource& queries, const std::string& output,
                                           Workspace& workspace) {
  if (!keeps(queries, output)) {
    return nullptr;
  }
  std::vector<float>& kept = constant_queries[output];
  if (!kept.empty()) {
    return kept.data();
  }
  const int64_t qk = shape().qk_channels;
  kept.resize(static_cast<size_t>(queries.count() * qk));
  constant_bytes += static_cast<int64_t>(kept.size()) * 4;
  const int64_t step = decode_block_rows(scratch_bytes, shape().query_channels);
  for (int64_t begin = 0; begin < queries.count(); begin += step) {
    const Workspace::Scope scope(workspace);
    const int64_t end = std::min(begin + step, queries.count());
    packed_query().apply(normed_rows(queries, 0, begin, end, weights.eps,
                                     workspace.dense(end - begin, queries.channels())),
                         {kept.data() + begin * qk, end - begin, qk, qk});
  }
  return kept.data();
}

void Decoder::map(const Prepared& prepared, TokenSource& queries, int64_t b, int64_t begin,
                  int64_t end, float* out, int64_t head_stride, Workspace& workspace) const {
  Parts& parts = *parts_;
  const int64_t n = prepared.latents, dk = parts.qk_dim();
  const int64_t step = decode_block_rows(parts.scratch_bytes,
                                         parts.shape().query_channels + parts.shape().qk_channels);
  for (int64_t first = begin; first < end; first += step) {
    const Workspace::Scope scope(workspace);
    const int64_t last = std::min(first + step, end);
    const Matrix q = workspace.dense(last - first, parts.shape().qk_channels);
    parts.packed_query().apply(normed_rows(queries, b, first, last, parts.weights.eps,
                                           workspace.dense(last - first, queries.channels())),
                               q);
    for (int64_t h = 0; h < parts.shape().num_heads; ++h) {
      const Matrix scores{out + h * head_stride + (first - begin) * n, last - first, n, n};
      multiply_transposed(ConstMatrix(q).slice(h * dk, dk), prepared.example(b).slice(h * dk, dk),
                          scores);
      for (int64_t i = 0; i < scores.rows; ++i) {
        float* row = scores.row(i);
        const float largest = *std::max_element(row, row + n);
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) {
          row[j] = std::exp(row[j] - largest);
          sum += static_cast<double>(row[j]);
        }
        std::for_each(row, row + n,
                      [sum](float& p) { p = static_cast<float>(static_cast<double>(p) / sum); });
      }
    }
  }
}

}  // namespace perceiver::runtime
