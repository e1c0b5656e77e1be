#include "nn/plans.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/var_mean.h>
#include <ATen/ops/zeros.h>

#include "perceiver/base/str.h"
#include "perceiver/nn/attend_terms.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::nn {
namespace {

constexpr size_t kMostGrids = 64;

/// The axes' tables are [x | sin | cos] each, the model's order is
/// [x_0 .. | sin_0 | sin_1 .. | cos_0 | cos_1 ..].
std::vector<GridTables::ChannelRun> channel_runs(const tokens::SeparablePositions& positions) {
  std::vector<GridTables::ChannelRun> runs;
  const auto add = [&](int64_t begin, int64_t length) {
    for (size_t axis = 0; length > 0 && axis < positions.axes.size(); ++axis) {
      runs.push_back({axis, begin, length});
    }
  };
  const int64_t coordinates = positions.concat_pos ? 1 : 0;
  add(0, coordinates);
  for (int64_t wave = 0; wave < (positions.sine_only ? 1 : 2); ++wave) {
    add(coordinates + wave * positions.num_bands, positions.num_bands);
  }
  return runs;
}

/// Place in the model's order of every channel of the axes' tables, these side by side.
std::vector<int64_t> channel_order(const std::vector<GridTables::ChannelRun>& runs, int64_t width,
                                   size_t axes) {
  std::vector<int64_t> order(static_cast<size_t>(width) * axes);
  int64_t place = 0;
  for (const GridTables::ChannelRun& run : runs) {
    for (int64_t channel = run.begin; channel < run.begin + run.length; ++channel) {
      order[run.axis * static_cast<size_t>(width) + static_cast<size_t>(channel)] = place++;
    }
  }
  return order;
}

/// Adds values [extent] of one axis to all tokens of the grid they lie on.
void add_along(at::Tensor& grid, const at::Tensor& values, int64_t axis) {
  std::vector<int64_t> shape(static_cast<size_t>(grid.dim()), 1);
  shape[static_cast<size_t>(axis)] = values.size(0);
  grid.add_(values.view(shape));
}

std::shared_ptr<const GridTables> make_tables(const tokens::SeparablePositions& positions,
                                              const at::TensorOptions& options) {
  auto tables = std::make_shared<GridTables>();
  tables->extents = positions.index_dims;
  const auto exact = at::TensorOptions().dtype(at::kDouble);
  const double share = 1.0 / static_cast<double>(positions.axes.size());
  at::Tensor mean = at::zeros(positions.index_dims, exact);
  at::Tensor square = at::zeros(positions.index_dims, exact);
  for (size_t axis = 0; axis < positions.axes.size(); ++axis) {
    const at::Tensor table = to_tensor(positions.axes[axis]);
    tables->axes.push_back(table.to(options));
    // statistics of the features as the model's dtype holds them
    const at::Tensor held = tables->axes.back().to(exact.device(at::kCPU));
    add_along(mean, held.mean(1) * share, static_cast<int64_t>(axis));
    add_along(square, held.pow(2).mean(1) * share, static_cast<int64_t>(axis));
  }
  tables->mean = mean.flatten().to(options);
  tables->variance = (square - mean.pow(2)).flatten().clamp_min(0).to(options);
  tables->runs = channel_runs(positions);
  const at::Tensor order = at::tensor(
      channel_order(tables->runs, tables->axes[0].size(1), tables->axes.size()), at::kLong);
  tables->order = order.to(options.device());
  tables->inverse = at::argsort(order).to(options.device());
  return tables;
}

/// [..., C] cut at channels: content, each axis of the grid, constant.
struct Parts {
  at::Tensor content;  ///< at least one channel, see AbsorbedRows
  std::vector<at::Tensor> axes;
  at::Tensor constant;
};

/// LayerNorm subtracts a token's mean; taken from what meets the token it need not be.
at::Tensor centred(const at::Tensor& x) {
  return x - x.mean({-1}, /*keepdim=*/true);
}

Parts cut(const at::Tensor& x, const AbsorbedRows& rows) {
  const int64_t positions = rows.grid->order.size(0);
  const int64_t width = rows.grid->axes[0].size(1);
  const int64_t constants = rows.constant.defined() ? rows.constant.size(0) : 0;
  const int64_t content = x.size(-1) - positions - constants;
  Parts parts;
  parts.content = x.narrow(-1, 0, std::max<int64_t>(content, 1));  // one meets zeros
  const at::Tensor ordered =
      at::index_select(x.narrow(-1, content, positions), -1, rows.grid->order);
  for (size_t axis = 0; axis < rows.grid->axes.size(); ++axis) {
    parts.axes.push_back(ordered.narrow(-1, static_cast<int64_t>(axis) * width, width));
  }
  if (constants > 0) {
    parts.constant = x.narrow(-1, content + positions, constants);
  }
  return parts;
}

ReadTokens read_factored(const at::Tensor& queries, const AbsorbedRows& tokens, AttendTerms terms) {
  const GridTables& grid = *tokens.grid;
  const Parts parts = cut(centred(queries), tokens);
  terms.q = parts.content;
  terms.grid = {kernels::GridSide::kKeys, grid.extents, tokens.begin, tokens.scale, {}};
  for (size_t axis = 0; axis < grid.axes.size(); ++axis) {
    at::Tensor table = at::matmul(parts.axes[axis], grid.axes[axis].t());
    if (axis == 0 && parts.constant.defined()) {  // the same for all tokens, so any axis carries it
      table = table + at::matmul(parts.constant, tokens.constant).unsqueeze(-1);
    }
    terms.grid.tables.push_back(table);
  }
  const Attended attended = attend_terms(terms);
  std::vector<at::Tensor> positions;
  for (size_t axis = 0; axis < grid.axes.size(); ++axis) {
    positions.push_back(at::matmul(attended.sums[axis], grid.axes[axis]));
  }
  std::vector<at::Tensor> mixed{
      attended.out, at::index_select(positions.size() == 1 ? positions[0] : at::cat(positions, -1),
                                     -1, grid.inverse)};
  if (tokens.constant.defined()) {
    mixed.push_back(attended.sums[0].sum({-1}, /*keepdim=*/true) * tokens.constant);
  }
  return {centred(at::cat(mixed, -1)), attended.lse};
}

at::Tensor narrow_rows(const at::Tensor& x, int64_t begin, int64_t length) {
  return x.defined() ? x.narrow(1, begin, length) : x;
}

/// Mean and variance of part of a token's channels; `size` of them.
struct Share {
  double size;
  at::Tensor mean, variance;  ///< broadcastable to [B, M]
};

/// Statistics of whole tokens from those of their parts; every term is positive, so nothing
/// cancels.
Share joint(const std::vector<Share>& parts) {
  Share whole{0, {}, {}};
  for (const Share& part : parts) {
    whole.size += part.size;
    const at::Tensor sum = part.mean * part.size;
    whole.mean = whole.mean.defined() ? whole.mean + sum : sum;
  }
  whole.mean = whole.mean / whole.size;
  for (const Share& part : parts) {
    const at::Tensor squares =
        (part.variance + (part.mean - whole.mean).square()) * (part.size / whole.size);
    whole.variance = whole.variance.defined() ? whole.variance + squares : squares;
  }
  return whole;
}

Share statistics(const at::Tensor& x) {
  auto [variance, mean] = at::var_mean(x, at::OptionalIntArrayRef({-1}), /*unbiased=*/false);
  return {static_cast<double>(x.size(-1)), mean, variance};
}

}  // namespace

std::shared_ptr<const GridTables> GridTablesCache::get(const std::string& name,
                                                       const tokens::SeparablePositions& positions,
                                                       const at::TensorOptions& options) {
  const std::string key = cat(name, " ", shape_string(positions.index_dims));
  if (tables_.size() >= kMostGrids && tables_.find(key) == tables_.end()) {
    tables_.clear();  // of texts or pictures of ever other extents
  }
  std::shared_ptr<const GridTables>& tables = tables_[key];
  if (tables == nullptr) {
    tables = make_tables(positions, options);
  }
  return tables;
}

at::Tensor grid_rows(const GridTables& grid, const at::Tensor& tokens) {
  std::vector<at::Tensor> of_axes(grid.axes.size());
  at::Tensor rest = tokens;
  for (size_t axis = grid.axes.size(); axis-- > 0;) {
    of_axes[axis] = at::index_select(grid.axes[axis], 0, rest.remainder(grid.extents[axis]));
    rest = rest.div(grid.extents[axis], "floor");
  }
  std::vector<at::Tensor> channels;
  for (const GridTables::ChannelRun& run : grid.runs) {
    channels.push_back(of_axes[run.axis].narrow(1, run.begin, run.length));
  }
  return at::cat(channels, 1);
}

at::Tensor grid_rows(const GridTables& grid, int64_t begin, int64_t count) {
  return grid_rows(grid,
                   at::arange(begin, begin + count, grid.axes.at(0).options().dtype(at::kLong)));
}

bool is_factorable(const TokenSegment& segment) {
  return segment.separable && !segment.add_positions && !segment.replaced.defined() &&
         segment.separable->axes.size() <= static_cast<size_t>(kernels::kMaxGridAxes);
}

AbsorbedRows factored_rows(const TokenSegment& segment, std::shared_ptr<const GridTables> grid,
                           int64_t begin, double eps) {
  AbsorbedRows rows;
  rows.count = segment.tokens;
  rows.begin = begin;
  const auto of_tokens = [&](const at::Tensor& x) {
    return x.narrow(0, begin, segment.tokens).unsqueeze(0);
  };
  std::vector<Share> parts{
      {static_cast<double>(grid->order.size(0)), of_tokens(grid->mean), of_tokens(grid->variance)}};
  if (segment.content.defined()) {
    parts.push_back(statistics(segment.content));
  }
  if (segment.constant.defined()) {
    rows.constant = segment.constant.flatten();
    parts.push_back(statistics(rows.constant));
  }
  const Share token = joint(parts);
  rows.rows = segment.content.defined() ? segment.content
                                        : at::zeros({1, segment.tokens, 1}, grid->mean.options());
  rows.scale = at::rsqrt(token.variance + eps);
  rows.grid = std::move(grid);
  return rows;
}

AbsorbedRows normalised_rows(const at::Tensor& dense, double eps) {
  AbsorbedRows rows;
  rows.count = dense.size(1);
  rows.rows = at::layer_norm(dense, {dense.size(-1)}, {}, {}, eps);
  return rows;
}

AbsorbedRows narrow(const AbsorbedRows& rows, int64_t begin, int64_t length) {
  if (begin == 0 && length == rows.count) {
    return rows;
  }
  AbsorbedRows part = rows;
  part.count = length;
  part.begin = rows.begin + begin;
  part.rows = narrow_rows(rows.rows, begin, length);
  part.scale = narrow_rows(rows.scale, begin, length);
  return part;
}

ReadTokens read_tokens(const at::Tensor& queries, const AbsorbedRows& tokens,
                       const at::Tensor& mask) {
  AttendTerms terms;
  terms.k = terms.v = tokens.rows.unsqueeze(1);
  terms.key_mask = mask;
  if (tokens.grid != nullptr) {
    return read_factored(queries, tokens, std::move(terms));
  }
  terms.q = queries;
  const Attended attended = attend_terms(terms);
  return {attended.out, attended.lse};
}

at::Tensor merge_reads(const std::vector<ReadTokens>& reads) {
  if (reads.size() == 1) {
    return reads[0].mixed;
  }
  std::vector<at::Tensor> each;
  for (const ReadTokens& read : reads) {
    each.push_back(read.lse);
  }
  const at::Tensor whole = at::logsumexp(at::stack(each), 0);
  at::Tensor merged;
  for (const ReadTokens& read : reads) {
    const at::Tensor part = read.mixed * (read.lse - whole).exp().unsqueeze(-1);
    merged = merged.defined() ? merged + part : part;
  }
  return merged;
}

AbsorbedKeys absorbed_keys(const at::Tensor& keys, const AbsorbedRows& rows) {
  if (rows.grid == nullptr) {
    return {keys, {}};
  }
  const Parts parts = cut(centred(keys), rows);
  AbsorbedKeys absorbed{parts.content, {}};
  for (size_t axis = 0; axis < rows.grid->axes.size(); ++axis) {
    at::Tensor table = at::matmul(rows.grid->axes[axis], parts.axes[axis].transpose(-1, -2));
    if (axis == 0 && parts.constant.defined()) {
      table = table + at::matmul(parts.constant, rows.constant).unsqueeze(-2);
    }
    absorbed.tables.push_back(table);
  }
  return absorbed;
}

at::Tensor ask_latents(const AbsorbedRows& rows, const AbsorbedKeys& keys, const at::Tensor& bias,
                       const at::Tensor& values) {
  AttendTerms terms;
  terms.q = rows.rows.unsqueeze(1);
  terms.k = keys.keys;
  terms.v = values;
  terms.key_bias = bias;
  if (rows.grid != nullptr) {
    terms.grid = {kernels::GridSide::kQueries, rows.grid->extents, rows.begin, rows.scale,
                  keys.tables};
  }
  return attend_terms(terms).out;
}

}  // namespace perceiver::nn
