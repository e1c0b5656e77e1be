#include "runtime/decode_tail.h"

#include <algorithm>
#include <cmath>

#include "perceiver/kernels/rows.h"
#include "runtime/rows.h"

namespace perceiver::runtime {
namespace {

double flops(int64_t in, int64_t out) {
  return 2 * static_cast<double>(in) * static_cast<double>(out);
}

double flops(const Affine& affine) {
  return flops(affine.in, affine.out);
}

Affine composed(const std::vector<Affine>& chain) {
  Affine whole = chain.front();
  for (size_t i = 1; i < chain.size(); ++i) {
    whole = compose(chain[i], whole);
  }
  return whole;
}

Affine without_bias(Affine affine) {
  affine.bias.clear();
  return affine;
}

void add_bias(Affine& affine, const std::vector<float>& bias) {
  if (bias.empty()) {
    return;
  }
  affine.bias.resize(static_cast<size_t>(affine.out), 0.0F);
  for (size_t o = 0; o < affine.bias.size(); ++o) {
    affine.bias[o] += bias[o];
  }
}

/// The outputs minus their mean: what LayerNorm does first.
Affine centred(Affine affine) {
  const auto subtract_mean = [&](float* first, int64_t step) {
    double sum = 0;
    for (int64_t o = 0; o < affine.out; ++o) {
      sum += static_cast<double>(first[o * step]);
    }
    const double mean = sum / static_cast<double>(affine.out);
    for (int64_t o = 0; o < affine.out; ++o) {
      first[o * step] = static_cast<float>(static_cast<double>(first[o * step]) - mean);
    }
  };
  for (int64_t i = 0; i < affine.in; ++i) {
    subtract_mean(affine.weight.data() + i, affine.in);
  }
  if (!affine.bias.empty()) {
    subtract_mean(affine.bias.data(), 1);
  }
  return affine;
}

/// [weight | bias of inner] of a map whose input comes scaled, its scale in one more channel.
Affine with_scale_channel(const Affine& inner, std::vector<float> bias) {
  Affine wide;
  wide.out = inner.out;
  wide.in = inner.in + 1;
  for (int64_t o = 0; o < inner.out; ++o) {
    wide.weight.insert(wide.weight.end(), inner.weight.begin() + o * inner.in,
                       inner.weight.begin() + (o + 1) * inner.in);
    wide.weight.push_back(inner.bias.empty() ? 0.0F : inner.bias[static_cast<size_t>(o)]);
  }
  wide.bias = std::move(bias);
  return wide;
}

/// Gram matrix of [A | b], in double, [n, n] with n = in + 1.
std::vector<double> gram(const Affine& map) {
  const int64_t n = map.in + 1;
  std::vector<double> columns(static_cast<size_t>(n * map.out));  // [n, out]
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t o = 0; o < map.out; ++o) {
      const float bias = map.bias.empty() ? 0.0F : map.bias[static_cast<size_t>(o)];
      columns[static_cast<size_t>(i * map.out + o)] =
          static_cast<double>(i < map.in ? map.weight[static_cast<size_t>(o * map.in + i)] : bias);
    }
  }
  std::vector<double> product(static_cast<size_t>(n * n));
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t i = 0; i < n; ++i) {
    const double* left = columns.data() + i * map.out;
    for (int64_t j = 0; j <= i; ++j) {
      const double* right = columns.data() + j * map.out;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t o = 0; o < map.out; ++o) {
        sum += left[o] * right[o];
      }
      product[static_cast<size_t>(i * n + j)] = sum;
      product[static_cast<size_t>(j * n + i)] = sum;
    }
  }
  return product;
}

}  // namespace

Affine length_preserving(const Affine& map) {
  const int64_t n = map.in + 1;
  std::vector<double> rest = gram(map);  // what the rows found so far do not explain
  const auto diagonal = [&](int64_t i) -> double& { return rest[static_cast<size_t>(i * n + i)]; };
  Affine result;
  result.in = map.in;
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, diagonal(i));
  }
  std::vector<double> row(static_cast<size_t>(n));
  for (int64_t rank = 0; rank < std::min(n, map.out); ++rank) {
    int64_t pivot = 0;
    for (int64_t i = 1; i < n; ++i) {
      pivot = diagonal(i) > diagonal(pivot) ? i : pivot;
    }
    // below the rounding of the Gram matrix itself
    if (diagonal(pivot) <= 1e-15 * static_cast<double>(n) * largest) {
      break;
    }
    const double root = std::sqrt(diagonal(pivot));
    for (int64_t i = 0; i < n; ++i) {
      row[static_cast<size_t>(i)] = rest[static_cast<size_t>(pivot * n + i)] / root;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      const double factor = row[static_cast<size_t>(i)];
      double* of_i = rest.data() + i * n;
      for (int64_t j = 0; j < n; ++j) {
        of_i[j] -= factor * row[static_cast<size_t>(j)];
      }
    }
    std::fill_n(rest.begin() + pivot * n, n, 0.0);
    for (int64_t i = 0; i < n; ++i) {
      rest[static_cast<size_t>(i * n + pivot)] = 0;
    }
    for (int64_t i = 0; i < map.in; ++i) {
      result.weight.push_back(static_cast<float>(row[static_cast<size_t>(i)]));
    }
    result.bias.push_back(static_cast<float>(row[static_cast<size_t>(map.in)]));
    ++result.out;
  }
  if (result.out == 0) {  // a map to nothing but zeros
    result.out = 1;
    result.weight.assign(static_cast<size_t>(map.in), 0.0F);
    result.bias.assign(1, 0.0F);
  }
  return result;
}

const Linear& DecoderWeights::packed_output() {
  if (!output_linear) {
    output_linear.emplace(output, precision);
  }
  return *output_linear;
}

const Linear& DecoderWeights::packed_mlp_in() {
  if (!mlp_in_linear) {
    mlp_in_linear.emplace(mlp_in, precision);
  }
  return *mlp_in_linear;
}

const Linear& DecoderWeights::packed_mlp_out() {
  if (!mlp_out_linear) {
    mlp_out_linear.emplace(mlp_out, precision);
  }
  return *mlp_out_linear;
}

const Linear& DecoderWeights::packed_length() {
  if (!length) {
    length.emplace(length_preserving(centred(output)), precision);
  }
  return *length;
}

const Linear& DecoderWeights::packed_hidden_of_values() {
  if (!hidden_of_values) {
    const Affine of_values = compose(without_bias(mlp_in), centred(output));
    hidden_of_values.emplace(with_scale_channel(of_values, mlp_in.bias), precision);
  }
  return *hidden_of_values;
}

RowTail::RowTail(DecoderWeights& shared, std::vector<Affine> chain, std::optional<Affine> last)
    : shared_(shared), chain_(std::move(chain)), last_affine_(std::move(last)) {
  if (last_affine_) {
    last_.emplace(*last_affine_, shared_.precision);
  }
}

int64_t RowTail::stage_channels() const {
  return chain_.empty() ? shared_.shape.query_channels : chain_.back().out;
}

int64_t RowTail::channels() const {
  return last_affine_ ? last_affine_->out : stage_channels();
}

bool RowTail::chain_composes() const {
  double parts = 0;
  for (const Affine& map : chain_) {
    parts += flops(map);
  }
  return chain_.size() > 1 && flops(shared_.shape.query_channels, stage_channels()) <= parts;
}

bool RowTail::possible(TailOrder order) const {
  switch (order) {
    case TailOrder::kComposed:
      return !chain_.empty();
    case TailOrder::kFromValues:
      return !shared_.shape.use_query_residual;
    default:
      return true;
  }
}

double RowTail::row_flops(TailOrder order) const {
  const AttentionShape& s = shared_.shape;
  const int64_t stage = stage_channels();
  const double last = last_affine_ ? flops(*last_affine_) : 0;
  double parts = 0;
  for (const Affine& map : chain_) {
    parts += flops(map);
  }
  switch (order) {
    case TailOrder::kSeparate:
      return 2 * flops(s.query_channels, s.mlp_channels) + parts + last;
    case TailOrder::kPlain:
      return 2 * flops(s.query_channels, s.mlp_channels) + last +
             (chain_composes() ? flops(s.query_channels, stage) : parts);
    case TailOrder::kComposed:
      return flops(s.query_channels, s.mlp_channels) +
             flops(s.query_channels + s.mlp_channels, stage) + last;
    case TailOrder::kFromValues:
      return flops(s.v_channels + 1, std::min(s.v_channels + 1, s.query_channels)) +
             flops(s.v_channels + 1, s.mlp_channels) + flops(s.v_channels + s.mlp_channels, stage) +
             last;
  }
  return 0;
}

double RowTail::setup_flops(TailOrder order) const {
  const AttentionShape& s = shared_.shape;
  const double stage = static_cast<double>(stage_channels());
  double chain = 0;
  if (chain_.size() > 1) {
    chain = flops(s.query_channels, stage_channels()) * static_cast<double>(chain_.back().in);
  }
  const double of_hidden = flops(s.query_channels, s.mlp_channels) * stage;
  switch (order) {
    case TailOrder::kSeparate:
      return 0;
    case TailOrder::kPlain:
      return chain_composes() ? chain : 0;
    case TailOrder::kComposed:
      return chain + of_hidden;
    case TailOrder::kFromValues: {
      const double v = static_cast<double>(s.v_channels);
      return chain + of_hidden + flops(s.query_channels, s.v_channels) * (stage + v / 2) +
             flops(s.query_channels, s.mlp_channels) * v + v * v * v;
    }
  }
  return 0;
}

int64_t RowTail::row_floats() const {
  const AttentionShape& s = shared_.shape;
  return s.query_channels + std::max(s.mlp_channels, s.v_channels + 1) + stage_channels();
}

void RowTail::prepare_composed() {
  if (of_x_) {
    return;
  }
  const Affine f = composed(chain_);
  Affine of_hidden = compose(without_bias(f), shared_.mlp_out);
  Affine of_x = f;
  add_bias(of_x, of_hidden.bias);
  of_x_.emplace(std::move(of_x), shared_.precision);
  of_hidden_.emplace(without_bias(std::move(of_hidden)), shared_.precision);
}

void RowTail::prepare_from_values() {
  if (of_values_) {
    return;
  }
  Affine of_hidden = shared_.mlp_out;
  Affine of_values = shared_.output;
  if (!chain_.empty()) {
    const Affine f = composed(chain_);
    of_hidden = compose(without_bias(f), shared_.mlp_out);
    of_values = compose(f, shared_.output);
  }
  add_bias(of_values, of_hidden.bias);
  of_values_.emplace(std::move(of_values), shared_.precision);
  of_hidden_.emplace(without_bias(std::move(of_hidden)), shared_.precision);
}

void RowTail::after_tanh(Matrix stage, Matrix out) {
  for (int64_t i = 0; i < stage.rows; ++i) {
    for (int64_t c = 0; c < stage.columns; ++c) {
      stage.row(i)[c] = std::tanh(stage.row(i)[c]);
    }
  }
  last_->apply(stage, out);
}

void RowTail::follow(TailOrder order, ConstMatrix x, Matrix out, Workspace& workspace) {
  if (order == TailOrder::kPlain && chain_composes()) {
    if (!together_) {
      together_.emplace(composed(chain_), shared_.precision);
    }
    together_->apply(x, out);
    return;
  }
  if (separate_.empty()) {
    for (const Affine& map : chain_) {
      separate_.emplace_back(map, shared_.precision);
    }
  }
  for (size_t i = 0; i + 1 < separate_.size(); ++i) {
    const Matrix next = workspace.dense(x.rows, separate_[i].out());
    separate_[i].apply(x, next);
    x = next;
  }
  if (!separate_.empty()) {
    separate_.back().apply(x, out);
    return;
  }
  copy_matrix(x, out);
}

void RowTail::from_x(TailOrder order, Matrix x, Matrix out, Matrix whole, Workspace& workspace) {
  const Workspace::Scope scope(workspace);
  const Matrix stage = last_ ? workspace.dense(out.rows, stage_channels()) : out;
  const Matrix hidden = workspace.dense(x.rows, shared_.shape.mlp_channels);
  {
    const Workspace::Scope inner(workspace);
    const Matrix normed = workspace.dense(x.rows, x.columns);
    kernels::normalise_rows(x.rows, x.columns, x.data, x.stride, shared_.eps, normed.data,
                            normed.stride);
    shared_.packed_mlp_in().apply(normed, hidden, {shared_.activation, false});
  }
  if (order == TailOrder::kComposed && whole.data == nullptr) {
    prepare_composed();
    of_x_->apply(x, stage);
    of_hidden_->apply(hidden, stage, {std::nullopt, true});
  } else {
    shared_.packed_mlp_out().apply(hidden, x, {std::nullopt, true});
    copy_matrix(x, whole);
    follow(order, x, stage, workspace);
  }
  if (last_) {
    after_tanh(stage, out);
  }
}

void RowTail::from_values(Matrix values, Matrix out, Workspace& workspace) {
  prepare_from_values();
  const Workspace::Scope scope(workspace);
  const int64_t v = shared_.shape.v_channels;
  const Matrix stage = last_ ? workspace.dense(out.rows, stage_channels()) : out;
  of_values_->apply(values.slice(0, v), stage);
  const Matrix hidden = workspace.dense(values.rows, shared_.shape.mlp_channels);
  {
    const Workspace::Scope inner(workspace);
    const Matrix turned = workspace.dense(values.rows, shared_.packed_length().out());
    shared_.packed_length().apply(values.slice(0, v), turned);
    const float width = static_cast<float>(shared_.shape.query_channels);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < values.rows; ++i) {
      const float* x = turned.row(i);
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < turned.columns; ++c) {
        squares += x[c] * x[c];
      }
      const float scale = 1 / std::sqrt(squares / width + shared_.eps);
      float* row = values.row(i);
      for (int64_t c = 0; c < v; ++c) {
        row[c] *= scale;
      }
      row[v] = scale;
    }
  }
  shared_.packed_hidden_of_values().apply(values, hidden, {shared_.activation, false});
  of_hidden_->apply(hidden, stage, {std::nullopt, true});
  if (last_) {
    after_tanh(stage, out);
  }
}

}  // namespace perceiver::runtime
