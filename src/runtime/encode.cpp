#include "runtime/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "runtime/encode_parts.h"

namespace perceiver::runtime {
namespace {

Affine normed(const Weights& weights, const std::string& prefix, const char* linear,
              const char* norm) {
  Affine affine = weights.affine(cat(prefix, ".", linear));
  affine.fold_norm(weights.data(cat(prefix, ".", norm, ".weight")),
                   weights.data(cat(prefix, ".", norm, ".bias")));
  return affine;
}

Plan planned(const ModelSpec& spec, const std::string& prefix) {
  for (const AttentionPlan& plan : plan_attentions(spec)) {
    if (plan.attention == prefix) {
      return plan.plan;
    }
  }
  return Plan::kTextbook;
}

uint64_t hash_of(const Weights& weights, const std::vector<std::string>& names) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const std::string& name : names) {
    const float* values = weights.data(name);
    for (int64_t i = 0; i < weights.at(name).numel(); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, values + i, sizeof bits);
      hash = (hash ^ bits) * 0x100000001b3U;  // FNV-1a, a word at a time
    }
  }
  return hash;
}

}  // namespace

CrossAttendIn::CrossAttendIn(Weights& weights, const std::string& prefix, const ModelSpec& spec,
                             const ModelShape& shape, Precision precision)
    : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  parts.shape = shape.encoder_cross;
  parts.masked_rows = spec.compatibility.masked_rows;
  parts.eps = static_cast<float>(spec.compatibility.layer_norm_eps);
  parts.precision = precision;
  parts.cheapest = planned(spec, prefix);
  parts.query = Linear(normed(weights, prefix, "query", "norm_queries"), precision);
  parts.key = normed(weights, prefix, "key", "norm_inputs");
  parts.key.bias.clear();
  parts.value = normed(weights, prefix, "value", "norm_inputs");
  parts.output = Linear(weights.affine(prefix + ".output"), precision);
  parts.mlp = Mlp(weights, prefix, spec.compatibility, precision);
  std::vector<std::string> read;
  for (const char* part : {"norm_queries", "norm_inputs", "query", "key", "value", "output"}) {
    read.push_back(cat(prefix, ".", part, ".weight"));
    read.push_back(cat(prefix, ".", part, ".bias"));
  }
  std::vector<std::string> of_state(read.begin(), read.end() - 2);
  of_state.push_back("latents");
  parts.fingerprint = hash_of(weights, of_state);
  for (const std::string& name : read) {
    weights.release(name);
  }
}

CrossAttendIn::~CrossAttendIn() = default;
CrossAttendIn::CrossAttendIn(CrossAttendIn&&) noexcept = default;
CrossAttendIn& CrossAttendIn::operator=(CrossAttendIn&&) noexcept = default;

uint64_t CrossAttendIn::fingerprint() const {
  return parts_->fingerprint;
}

void CrossAttendIn::limit_scratch(int64_t bytes) {
  parts_->scratch_bytes = bytes;
}

const Linear& CrossAttendIn::Parts::textbook_linear() {
  if (!key_value) {
    Affine no_bias = key;
    no_bias.bias.assign(static_cast<size_t>(key.out), 0.0F);
    key_value.emplace(stack({&no_bias, &value}), precision);
  }
  return *key_value;
}

const std::vector<Linear>& CrossAttendIn::Parts::heads_of_values() {
  for (int64_t h = static_cast<int64_t>(value_heads.size()); h < shape.num_heads; ++h) {
    value_heads.emplace_back(rows_between(value, h * v_dim(), (h + 1) * v_dim()), precision);
  }
  return value_heads;
}

std::shared_ptr<CrossAttendIn::Queries> CrossAttendIn::prepare(
    ConstMatrix latents, int64_t batch, bool shared, Plan plan, Workspace& workspace,
    std::shared_ptr<Queries> reused) const {
  Parts& parts = *parts_;
  const AttentionShape& shape = parts.shape;
  std::shared_ptr<Queries> queries =
      reused != nullptr ? std::move(reused) : std::make_shared<Queries>();
  queries->plan = plan == Plan::kAuto ? parts.cheapest : plan;
  queries->batch = batch;
  queries->sets = shared ? 1 : batch;
  queries->latents = latents.rows / queries->sets;
  const bool textbook = queries->plan == Plan::kTextbook;
  queries->width = textbook ? parts.v_dim() : shape.input_channels;
  for (const auto& source : queries->factored) {
    source->current = false;
  }

  const Workspace::Scope scope(workspace);
  const Matrix normalised = workspace.dense(latents.rows, latents.columns);
  kernels::normalise_rows(latents.rows, latents.columns, latents.data, latents.stride, parts.eps,
                          normalised.data, normalised.stride);
  const int64_t qk = shape.qk_channels;
  const int64_t n = queries->latents, heads = shape.num_heads, width = shape.input_channels;
  queries->rows.resize(
      static_cast<size_t>(textbook ? latents.rows * qk : queries->sets * heads * n * width));
  const Matrix q = textbook ? Matrix{queries->rows.data(), latents.rows, qk, qk}
                            : workspace.dense(latents.rows, qk);
  parts.query.apply(normalised, q);
  const float scale = 1 / std::sqrt(static_cast<float>(parts.qk_dim()));
  std::for_each(q.data, q.data + latents.rows * qk, [scale](float& value) { value *= scale; });
  if (textbook) {
    return queries;
  }
  for (int64_t set = 0; set < queries->sets; ++set) {
    for (int64_t h = 0; h < heads; ++h) {
      const Matrix absorbed{queries->rows.data() + (set * heads + h) * n * width, n, width, width};
      multiply(q.block(set * n, (set + 1) * n).slice(h * parts.qk_dim(), parts.qk_dim()),
               {parts.key.weight.data() + h * parts.qk_dim() * width, parts.qk_dim(), width, width},
               absorbed);
      centre_rows(absorbed);
    }
  }
  return queries;
}

Plan CrossAttendIn::plan_of(const Queries& queries) {
  return queries.plan;
}

void CrossAttendIn::empty(const Queries& queries, ReadState& state) const {
  const Parts& parts = *parts_;
  state.reset(queries.batch, parts.shape.num_heads, queries.latents, queries.width);
  if (parts.masked_rows == MaskedRows::kMean) {
    state.keep_plain(queries.plan == Plan::kTextbook ? parts.shape.v_channels : queries.width);
  }
}

ReadState CrossAttendIn::empty_state(const Queries& queries) const {
  ReadState state;
  empty(queries, state);
  return state;
}

const FactoredTables& CrossAttendIn::Queries::of_source(const AttentionShape& shape,
                                                        const TokenSource& source,
                                                        Workspace& workspace) const {
  FactoredTables& own = tables_of(factored, source.name(), source);
  if (own.current) {
    return own;
  }
  const int64_t count = sets * shape.num_heads * latents;
  const ConstMatrix absorbed{rows.data(), count, width, width};
  own.tables.resize(static_cast<size_t>(own.factors.num_axes()));
  for (int axis = 0; axis < own.factors.num_axes(); ++axis) {
    const int64_t extent = own.factors.extent(axis);
    std::vector<float>& table = own.tables[static_cast<size_t>(axis)];
    table.resize(static_cast<size_t>(count * extent));
    own.factors.table(axis, absorbed, {table.data(), count, extent, extent}, workspace);
  }
  own.current = true;
  return own;
}

namespace {

/// Every row of `to` becomes `row`.
void fill_rows(Matrix to, const float* row) {
  for (int64_t i = 0; i < to.rows; ++i) {
    std::copy_n(row, to.columns, to.row(i));
  }
}

bool has_seen_nothing(const ReadState& state, int64_t b) {
  // a mask is one for all heads and latents
  return state.lse[static_cast<size_t>(b * state.heads * state.latents)] ==
         -std::numeric_limits<float>::infinity();
}

}  // namespace

void CrossAttendIn::finish(const Queries& queries, const ReadState& state, Matrix latents,
                           Workspace& workspace) const {
  Parts& parts = *parts_;
  const int64_t n = state.latents, width = state.width, v_dim = parts.v_dim();
  const bool textbook = queries.plan == Plan::kTextbook;
  const Workspace::Scope scope(workspace);
  const Matrix attended = workspace.dense(state.batch * n, parts.shape.v_channels);
  for (int64_t b = 0; b < state.batch; ++b) {
    const bool empty = has_seen_nothing(state, b);
    const bool keeps_mean =
        empty && state.plain_width > 0 && state.plain_tokens[static_cast<size_t>(b)] > 0;
    const Matrix rows = attended.block(b * n, (b + 1) * n);
    if (empty && !keeps_mean) {
      for (int64_t i = 0; i < n; ++i) {
        std::fill_n(rows.row(i), rows.columns, 0.0F);
      }
      continue;
    }
    for (int64_t h = 0; h < state.heads; ++h) {
      const Matrix own = rows.slice(h * v_dim, v_dim);
      const float* plain = keeps_mean ? state.plain.data() + b * state.plain_width : nullptr;
      const ConstMatrix mean{state.mean.data() + (b * state.heads + h) * n * width, n, width,
                             width};
      if (keeps_mean && textbook) {
        fill_rows(own, plain + h * v_dim);
      } else if (keeps_mean) {
        parts.heads_of_values()[static_cast<size_t>(h)].apply({plain, 1, width, width},
                                                              own.block(0, 1));
        fill_rows(own.block(1, n), own.row(0));
      } else if (textbook) {
        for (int64_t i = 0; i < n; ++i) {
          std::copy_n(mean.row(i), v_dim, own.row(i));
        }
      } else {
        parts.heads_of_values()[static_cast<size_t>(h)].apply(mean, own);
      }
    }
  }
  parts.output.apply(attended, latents, {std::nullopt, parts.shape.use_query_residual});
  parts.mlp.apply(latents, workspace);
}

}  // namespace perceiver::runtime
