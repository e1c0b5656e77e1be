#include <cmath>
#include <limits>
#include <vector>

#include "perceiver/kernels/attend.h"

// The formulas of attend.h read aloud, one score at a time, accumulated in double. This text shares
// nothing with the kernels it judges and is not made faster: what it costs is its independence.

namespace perceiver::kernels {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

struct Head {
  int64_t batch;
  int64_t index;
};

template <typename T>
T* row_of(const Rows<T>& rows, Head head, int64_t i) {
  return rows.data + head.batch * rows.batch + head.index * rows.head + i * rows.row;
}

template <typename T>
int64_t coordinate(const TokenGrid<T>& grid, int64_t token, int axis) {
  int64_t index = grid.begin + token;
  for (int later = grid.num_axes - 1; later > axis; --later) {
    index /= grid.extents[later];
  }
  return index % grid.extents[axis];
}

/// a of one score.
template <typename T>
double token_scale(const TokenGrid<T>& grid, Head head, int64_t i, int64_t j) {
  if (grid.side == GridSide::kNone || grid.scale == nullptr) {
    return 1;
  }
  const int64_t token = grid.side == GridSide::kKeys ? j : i;
  return static_cast<double>(grid.scale[head.batch * grid.scale_batch + token]);
}

/// Where in table `axis` (or in its gradient) the term of one score stands.
template <typename T, typename U>
U* table_entry(const TokenGrid<T>& grid, const Rows<U>& table, int axis, Head head, int64_t i,
               int64_t j) {
  return grid.side == GridSide::kKeys ? row_of(table, head, i) + coordinate(grid, j, axis)
                                      : row_of(table, head, coordinate(grid, i, axis)) + j;
}

template <typename T>
int num_tables(const TokenGrid<T>& grid) {
  return grid.side == GridSide::kNone ? 0 : grid.num_axes;
}

template <typename T>
double dot(int64_t width, const T* x, const T* y) {
  double sum = 0;
  for (int64_t c = 0; c < width; ++c) {
    sum += static_cast<double>(x[c]) * static_cast<double>(y[c]);
  }
  return sum;
}

/// The score before the token's scale and the key's bias.
template <typename T>
double raw_score(const AttendForward<T>& args, Head head, int64_t i, int64_t j) {
  double raw = static_cast<double>(args.scale) *
               dot(args.shape.qk_dim, row_of(args.q, head, i), row_of(args.k, head, j));
  for (int x = 0; x < num_tables(args.grid); ++x) {
    raw += static_cast<double>(*table_entry(args.grid, args.grid.tables[x], x, head, i, j));
  }
  return raw;
}

template <typename T>
bool is_masked(const AttendForward<T>& args, Head head, int64_t j) {
  return args.key_mask != nullptr && args.key_mask[head.batch * args.key_mask_batch + j] == 0;
}

template <typename T>
double key_bias(const AttendForward<T>& args, Head head, int64_t j) {
  const int64_t row = head.batch * args.shape.heads + head.index;
  return args.key_bias == nullptr ? 0
                                  : static_cast<double>(args.key_bias[row * args.shape.keys + j]);
}

/// Index into arrays of [B, H, Q].
int64_t query_index(const AttendShape& shape, Head head, int64_t i) {
  return (head.batch * shape.heads + head.index) * shape.queries + i;
}

template <typename T>
void attend_row(const AttendForward<T>& args, Head head, int64_t i, std::vector<double>& weights) {
  const AttendShape& shape = args.shape;
  double highest = kMinusInfinity;
  for (int64_t j = 0; j < shape.keys; ++j) {
    double score = kMinusInfinity;
    if (!is_masked(args, head, j)) {
      score = token_scale(args.grid, head, i, j) * raw_score(args, head, i, j) +
              key_bias(args, head, j);
    }
    weights[static_cast<size_t>(j)] = score;
    highest = score > highest ? score : highest;
  }
  double total = 0;
  for (double& weight : weights) {
    weight = weight == kMinusInfinity ? 0 : std::exp(weight - highest);
    total += weight;
  }
  const bool any = total != 0;  // also of a score that is not a number, which must show
  const double lse = any ? highest + std::log(total) : kMinusInfinity;
  if (args.lse != nullptr) {
    args.lse[query_index(shape, head, i)] = static_cast<T>(lse);
  }
  const bool scaled = args.grid.side == GridSide::kKeys;
  for (int64_t j = 0; j < shape.keys; ++j) {
    double& weight = weights[static_cast<size_t>(j)];
    weight = any ? weight / total : 0;
    weight *= scaled ? token_scale(args.grid, head, i, j) : 1;
  }
}

template <typename T>
void weighted_values(const AttendForward<T>& args, Head head, int64_t i,
                     const std::vector<double>& weights) {
  std::vector<double> sum(static_cast<size_t>(args.shape.v_dim), 0.0);
  for (int64_t j = 0; j < args.shape.keys; ++j) {
    const double weight = weights[static_cast<size_t>(j)];
    if (weight == 0) {
      continue;  // a masked value may be anything, infinities included
    }
    const T* value = row_of(args.v, head, j);
    for (size_t c = 0; c < sum.size(); ++c) {
      sum[c] += weight * static_cast<double>(value[c]);
    }
  }
  T* out = row_of(args.out, head, i);
  for (size_t c = 0; c < sum.size(); ++c) {
    out[c] = static_cast<T>(sum[c]);
  }
}

template <typename T>
void weight_sums(const AttendForward<T>& args, Head head, int64_t i, int axis,
                 const std::vector<double>& weights) {
  std::vector<double> sum(static_cast<size_t>(args.grid.extents[axis]), 0.0);
  for (int64_t j = 0; j < args.shape.keys; ++j) {
    sum[static_cast<size_t>(coordinate(args.grid, j, axis))] += weights[static_cast<size_t>(j)];
  }
  T* out = row_of(args.sums[axis], head, i);
  for (size_t c = 0; c < sum.size(); ++c) {
    out[c] = static_cast<T>(sum[c]);
  }
}

template <typename T>
void attend_plainly(const AttendForward<T>& args) {
  const AttendShape& shape = args.shape;
  std::vector<double> weights(static_cast<size_t>(shape.keys));
  for (int64_t row = 0; row < shape.batch * shape.heads * shape.queries; ++row) {
    const int64_t i = row % shape.queries;
    const Head head{row / shape.queries / shape.heads, row / shape.queries % shape.heads};
    attend_row(args, head, i, weights);
    weighted_values(args, head, i, weights);
    for (int x = 0; x < num_tables(args.grid) && args.grid.side == GridSide::kKeys; ++x) {
      if (args.sums[x].data != nullptr) {
        weight_sums(args, head, i, x, weights);
      }
    }
  }
}

/// Gradients of one score's ingredients.
struct ScoreGradients {
  double weight;  ///< w itself: grad_v gets weight * grad_out
  double raw;     ///< of raw_score
  double score;
  double token_scale;
};

/// What the weight w(i, j) is worth: through the values and through the sums.
template <typename T>
double weight_gradient(const AttendBackward<T>& args, Head head, int64_t i, int64_t j) {
  const AttendForward<T>& forward = args.forward;
  double grad =
      dot(forward.shape.v_dim, row_of(args.grad_out, head, i), row_of(forward.v, head, j));
  for (int x = 0; x < num_tables(forward.grid) && forward.grid.side == GridSide::kKeys; ++x) {
    if (args.grad_sums[x].data != nullptr) {
      grad +=
          static_cast<double>(row_of(args.grad_sums[x], head, i)[coordinate(forward.grid, j, x)]);
    }
  }
  return grad;
}

/// delta - grad_lse: what every score of the row loses, per unit of its probability.
template <typename T>
double row_loss(const AttendBackward<T>& args, Head head, int64_t i) {
  const AttendForward<T>& forward = args.forward;
  double loss =
      dot<T>(forward.shape.v_dim, row_of(args.grad_out, head, i), row_of(forward.out, head, i));
  for (int x = 0; x < num_tables(forward.grid) && forward.grid.side == GridSide::kKeys; ++x) {
    if (args.grad_sums[x].data != nullptr) {
      loss += dot<T>(forward.grid.extents[x], row_of(args.grad_sums[x], head, i),
                     row_of(forward.sums[x], head, i));
    }
  }
  if (args.grad_lse != nullptr) {
    loss -= static_cast<double>(args.grad_lse[query_index(forward.shape, head, i)]);
  }
  return loss;
}

/// @param loss   row_loss of the query
template <typename T>
ScoreGradients score_gradients(const AttendBackward<T>& args, Head head, int64_t i, int64_t j,
                               double loss) {
  const AttendForward<T>& forward = args.forward;
  const double lse = static_cast<double>(forward.lse[query_index(forward.shape, head, i)]);
  if (lse == kMinusInfinity || is_masked(forward, head, j)) {
    return {0, 0, 0, 0};
  }
  const double a = token_scale(forward.grid, head, i, j);
  const double raw = raw_score(forward, head, i, j);
  const double p = std::exp(a * raw + key_bias(forward, head, j) - lse);
  const bool scaled_values = forward.grid.side == GridSide::kKeys;
  const double of_weight = weight_gradient(args, head, i, j);
  const double of_p = scaled_values ? a * of_weight : of_weight;
  const double of_score = p == 0 ? 0 : p * (of_p - loss);
  return {.weight = scaled_values ? a * p : p,
          .raw = a * of_score,
          .score = of_score,
          .token_scale = of_score * raw + (scaled_values ? p * of_weight : 0)};
}

/// y += factor * x
template <typename T>
void add_scaled(std::vector<double>& y, double factor, const T* x) {
  for (size_t c = 0; c < y.size(); ++c) {
    y[c] += factor * static_cast<double>(x[c]);
  }
}

template <typename T>
void add_to(const std::vector<double>& x, T* y) {
  for (size_t c = 0; c < x.size(); ++c) {
    y[c] = static_cast<T>(static_cast<double>(y[c]) + x[c]);
  }
}

template <typename T>
void add_to(double x, T& y) {
  y = static_cast<T>(static_cast<double>(y) + x);
}

/// What sums over the keys of one query: grad_q, and the tables and scale of the query's side.
template <typename T>
void backward_row(const AttendBackward<T>& args, Head head, int64_t i) {
  const AttendForward<T>& forward = args.forward;
  const TokenGrid<T>& grid = forward.grid;
  const double loss = row_loss(args, head, i);
  std::vector<double> grad_q(static_cast<size_t>(forward.shape.qk_dim), 0.0);
  std::vector<std::vector<double>> grad_tables(static_cast<size_t>(num_tables(grid)));
  for (size_t x = 0; x < grad_tables.size(); ++x) {
    grad_tables[x].resize(static_cast<size_t>(grid.extents[x]), 0.0);
  }
  double grad_scale = 0;
  for (int64_t j = 0; j < forward.shape.keys; ++j) {
    const ScoreGradients grad = score_gradients(args, head, i, j, loss);
    if (grad.weight == 0) {
      continue;
    }
    add_scaled(grad_q, static_cast<double>(forward.scale) * grad.raw, row_of(forward.k, head, j));
    grad_scale += grad.token_scale;
    for (size_t x = 0; x < grad_tables.size() && grid.side == GridSide::kKeys; ++x) {
      const int64_t c = coordinate(grid, j, static_cast<int>(x));
      grad_tables[x][static_cast<size_t>(c)] += grad.raw;
    }
  }
  if (args.grad_q.data != nullptr) {
    add_to(grad_q, row_of(args.grad_q, head, i));
  }
  if (args.grad_scale != nullptr && grid.side == GridSide::kQueries) {
    add_to(grad_scale, args.grad_scale[head.batch * grid.scale_batch + i]);
  }
  for (size_t x = 0; x < grad_tables.size() && grid.side == GridSide::kKeys; ++x) {
    if (args.grad_tables[x].data != nullptr) {
      add_to(grad_tables[x], row_of(args.grad_tables[x], head, i));
    }
  }
}

/// What sums over the queries of one key: grad_k, grad_v, grad_key_bias, the tables of a grid of
/// queries and the scale of a grid of keys. Scores are made a second time: a column at a time is
/// the only other order that sums in double without a matrix.
template <typename T>
void backward_column(const AttendBackward<T>& args, Head head, int64_t j,
                     const std::vector<double>& losses) {
  const AttendForward<T>& forward = args.forward;
  const TokenGrid<T>& grid = forward.grid;
  std::vector<double> grad_k(static_cast<size_t>(forward.shape.qk_dim), 0.0);
  std::vector<double> grad_v(static_cast<size_t>(forward.shape.v_dim), 0.0);
  double grad_bias = 0, grad_scale = 0;
  for (int64_t i = 0; i < forward.shape.queries; ++i) {
    const ScoreGradients grad = score_gradients(args, head, i, j, losses[static_cast<size_t>(i)]);
    add_scaled(grad_k, static_cast<double>(forward.scale) * grad.raw, row_of(forward.q, head, i));
    add_scaled(grad_v, grad.weight, row_of(args.grad_out, head, i));
    grad_bias += grad.score;
    grad_scale += grad.token_scale;
    for (int x = 0; x < num_tables(grid) && grid.side == GridSide::kQueries; ++x) {
      if (args.grad_tables[x].data != nullptr) {
        add_to(grad.raw, *table_entry(grid, args.grad_tables[x], x, head, i, j));
      }
    }
  }
  if (args.grad_k.data != nullptr) {
    add_to(grad_k, row_of(args.grad_k, head, j));
  }
  if (args.grad_v.data != nullptr) {
    add_to(grad_v, row_of(args.grad_v, head, j));
  }
  if (args.grad_key_bias != nullptr) {
    const int64_t row = head.batch * forward.shape.heads + head.index;
    add_to(grad_bias, args.grad_key_bias[row * forward.shape.keys + j]);
  }
  if (args.grad_scale != nullptr && grid.side == GridSide::kKeys) {
    add_to(grad_scale, args.grad_scale[head.batch * grid.scale_batch + j]);
  }
}

template <typename T>
void backward_plainly(const AttendBackward<T>& args) {
  const AttendShape& shape = args.forward.shape;
  std::vector<double> losses(static_cast<size_t>(shape.queries));
  for (int64_t pair = 0; pair < shape.batch * shape.heads; ++pair) {
    const Head head{pair / shape.heads, pair % shape.heads};
    for (int64_t i = 0; i < shape.queries; ++i) {
      backward_row(args, head, i);
      losses[static_cast<size_t>(i)] = row_loss(args, head, i);
    }
    for (int64_t j = 0; j < shape.keys; ++j) {
      backward_column(args, head, j, losses);
    }
  }
}

}  // namespace

void attend_reference(const AttendForward<float>& args) {
  attend_plainly(args);
}
void attend_reference(const AttendForward<double>& args) {
  attend_plainly(args);
}
void attend_backward_reference(const AttendBackward<float>& args) {
  backward_plainly(args);
}
void attend_backward_reference(const AttendBackward<double>& args) {
  backward_plainly(args);
}

}  // namespace perceiver::kernels
