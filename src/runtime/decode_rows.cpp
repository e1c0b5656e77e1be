#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "runtime/decode_parts.h"

namespace perceiver::runtime {
namespace {

using kernels::AttendForward;
using kernels::GridSide;

double product(int64_t a, int64_t b, int64_t c) {
  return 2 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

/// Weights are composed once for many calls.
constexpr double kCallsPerSetup = 32;

struct ScoreCost {
  Plan plan = Plan::kTextbook;
  double flops = 0;
};

double absorbing(const Decoder::Parts& parts, int64_t n) {
  return product(n, parts.shape().qk_channels, parts.shape().query_channels);
}

ScoreCost textbook_scores(const Decoder::Parts& parts, int64_t n, const TokenSource& queries,
                          bool kept) {
  const AttentionShape& shape = parts.shape();
  const int64_t rows = queries.count();
  return {Plan::kTextbook, (kept ? 0 : product(rows, shape.query_channels, shape.qk_channels)) +
                               product(rows, n, shape.qk_channels)};
}

ScoreCost absorbed_scores(const Decoder::Parts& parts, int64_t n, const TokenSource& queries) {
  const AttentionShape& shape = parts.shape();
  return {Plan::kAbsorbed, absorbing(parts, n) +
                               product(shape.num_heads * queries.count(), n, shape.query_channels)};
}

ScoreCost factored_scores(const Decoder::Parts& parts, int64_t n, const TokenSource& queries) {
  const AttentionShape& shape = parts.shape();
  double tables = 0;
  for (const Array& axis : queries.positions().axes) {
    tables += product(shape.num_heads * n, axis.size(0), axis.size(1));
  }
  // a table costs an addition a score
  const int64_t width =
      queries.content_channels() + static_cast<int64_t>(queries.positions().axes.size());
  return {Plan::kFactored,
          absorbing(parts, n) + tables + product(shape.num_heads * queries.count(), n, width)};
}

ScoreChoice choose_scores(const Decoder::Parts& parts, const Decoder::Prepared& prepared,
                          const OutputSpec& output, const TokenSource& queries) {
  const int64_t n = prepared.latents;
  const bool factors = TokenFactors::applies(queries);
  std::array<ScoreCost, 3> all{
      textbook_scores(parts, n, queries, parts.keeps(queries, output.name)),
      absorbed_scores(parts, n, queries),
      factors ? factored_scores(parts, n, queries) : ScoreCost{}};
  const std::span costs(all.data(), factors ? 3 : 2);
  std::sort(costs.begin(), costs.end(),
            [](const ScoreCost& a, const ScoreCost& b) { return a.flops < b.flops; });
  ScoreChoice choice;
  choice.forced = prepared.plan != Plan::kAuto;
  choice.falls_back = prepared.plan == Plan::kFactored && !factors;
  choice.plan = choice.falls_back ? Plan::kAbsorbed
                : choice.forced   ? prepared.plan
                                  : costs.front().plan;
  choice.runner_up = costs[1].plan;
  choice.runner_up_flops = costs[1].flops;
  choice.flops = std::find_if(costs.begin(), costs.end(), [&](const ScoreCost& cost) {
                   return cost.plan == choice.plan;
                 })->flops;
  return choice;
}

struct AfterScores {
  bool values_composed;
  TailOrder tail;
  double flops;
};

/// The cheapest way from the scores on, for every row, and the order as written.
struct BestAfterScores {
  AfterScores best, as_written;
};

BestAfterScores after_scores(const Decoder::Parts& parts, const RowTail& tail, int64_t n,
                             int64_t rows, bool whole_rows) {
  const AttentionShape& shape = parts.shape();
  const double composing = product(n, shape.v_channels, shape.output_channels);
  const double output = product(rows, shape.v_channels, shape.output_channels);
  const double plain = product(rows, n, shape.v_channels);
  const double composed = product(shape.num_heads * rows, n, shape.output_channels) + composing;
  const AfterScores as_written{
      false, TailOrder::kSeparate,
      plain + output + static_cast<double>(rows) * tail.row_flops(TailOrder::kSeparate)};
  AfterScores best = as_written;
  const auto consider = [&](const AfterScores& one) { best = one.flops < best.flops ? one : best; };
  for (const TailOrder order :
       {TailOrder::kSeparate, TailOrder::kPlain, TailOrder::kComposed, TailOrder::kFromValues}) {
    const bool has_rows = order == TailOrder::kSeparate || order == TailOrder::kPlain;
    if (!tail.possible(order) || (whole_rows && !has_rows)) {
      continue;
    }
    const double rest = static_cast<double>(rows) * tail.row_flops(order) +
                        tail.setup_flops(order) / kCallsPerSetup;
    if (order == TailOrder::kFromValues) {
      consider({false, order, plain + rest});
    } else {
      consider({false, order, plain + output + rest});
      consider({true, order, composed + rest});
    }
  }
  return {best, as_written};
}

}  // namespace

RowOrder choose_order(const Decoder::Parts& parts, const Decoder::Prepared& prepared,
                      const OutputSpec& output, const TokenSource& queries, bool whole_rows) {
  const BestAfterScores after = after_scores(parts, parts.tails.at(output.name), prepared.latents,
                                             queries.count(), whole_rows);
  RowOrder order;
  order.scores = choose_scores(parts, prepared, output, queries);
  order.scores.flops += after.best.flops;
  order.scores.textbook_flops =
      after.as_written.flops + textbook_scores(parts, prepared.latents, queries, false).flops;
  order.values_composed = after.best.values_composed;
  order.tail = after.best.tail;
  return order;
}

AttentionPlan ScoreChoice::described() const {
  const std::string reason =
      falls_back ? "the queries do not factor"
      : forced   ? "asked for"
                 : cat(plan_name(runner_up), " would take ", runner_up_flops / 1e9, " GFLOP");
  return {"decoder.cross_attend", plan, reason, flops, textbook_flops};
}

namespace {

/// Rows of one output and one example, block by block.
class RowReader {
 public:
  RowReader(Decoder::Parts& parts, const Decoder::Prepared& prepared, const OutputSpec& output,
            TokenSource& queries, int64_t b, const RowOrder& order, Workspace& workspace)
      : parts_(parts),
        prepared_(prepared),
        queries_(queries),
        tail_(parts.tails.at(output.name)),
        order_(order),
        b_(b) {
    if (order.scores.plan == Plan::kTextbook) {
      kept_ = parts.constant_rows(queries, output.name, workspace);
    } else {
      prepared.absorb_keys(parts);
    }
    if (order.scores.plan == Plan::kFactored) {
      factored_ = &prepared.of_queries(parts, output.name, queries, workspace);
    }
    if (order.values_composed) {
      prepared.compose_values(parts);
    }
  }

  /// Rows that attend in one call. The kernel packs keys and values once for each thread's share of
  /// a call: the more rows, the less of it. What follows the attention takes up most of the scratch
  /// a row, so that it goes through such a block in smaller steps, each of the two in half the
  /// budget.
  int64_t block_rows() const {
    const AttentionShape& shape = parts_.shape();
    const int64_t scores = order_.scores.plan == Plan::kFactored
                               ? queries_.content_channels() + 1
                               : shape.query_channels + shape.qk_channels;
    return decode_block_rows(half_scratch(), scores + values_width());
  }

  void block(int64_t begin, int64_t end, Matrix out, Matrix whole, Workspace& workspace) {
    const Workspace::Scope scope(workspace);
    const Matrix values = order_.tail == TailOrder::kFromValues
                              ? workspace.matrix(end - begin, values_width())
                              : workspace.dense(end - begin, values_width());
    attend(begin, end, values, workspace);
    const int64_t step =
        decode_block_rows(half_scratch(), parts_.shape().output_channels + tail_.row_floats());
    for (int64_t first = 0; first < values.rows; first += step) {
      const int64_t last = std::min(first + step, values.rows);
      finish(begin + first, values.block(first, last), out.block(first, last),
             whole.data == nullptr ? whole : whole.block(first, last), workspace);
    }
  }

 private:
  int64_t half_scratch() const {
    return std::max<int64_t>((parts_.scratch_bytes > 0 ? parts_.scratch_bytes : kDecodeScratch) / 2,
                             1);
  }

  /// Rows begin, begin + 1, ... from their weighted values on.
  void finish(int64_t begin, Matrix values, Matrix out, Matrix whole, Workspace& workspace) {
    if (order_.tail == TailOrder::kFromValues) {
      tail_.from_values(values, out, workspace);
      return;
    }
    const Workspace::Scope scope(workspace);
    const bool are_rows = order_.values_composed && parts_.shape().num_heads == 1;
    const Matrix x =
        are_rows ? values : workspace.dense(values.rows, parts_.shape().output_channels);
    if (order_.values_composed && !are_rows) {
      add_heads(values, x);
    } else if (!are_rows) {
      parts_.weights.packed_output().apply(values, x);
    }
    if (parts_.shape().use_query_residual) {
      add_queries(begin, x, workspace);
    }
    tail_.from_x(order_.tail, x, out, whole, workspace);
  }

  void add_queries(int64_t begin, Matrix x, Workspace& workspace) const {
    const Workspace::Scope scope(workspace);
    const Matrix rows = workspace.matrix(x.rows, x.columns);
    queries_.dense(b_, begin, begin + x.rows, rows);
    for (int64_t i = 0; i < x.rows; ++i) {
      for (int64_t c = 0; c < x.columns; ++c) {
        x.row(i)[c] += rows.row(i)[c];
      }
    }
  }

  int64_t values_width() const {
    const AttentionShape& shape = parts_.shape();
    if (order_.tail == TailOrder::kFromValues) {
      return shape.v_channels + 1;  // one more column for what from_values() adds
    }
    return order_.values_composed ? shape.num_heads * shape.output_channels : shape.v_channels;
  }

  /// Weighted values of the rows, heads side by side in the first columns of `to`.
  void attend(int64_t begin, int64_t end, Matrix to, Workspace& workspace) const {
    const Workspace::Scope scope(workspace);
    const AttentionShape& shape = parts_.shape();
    AttendForward<float> args;
    args.shape.heads = shape.num_heads;
    args.shape.queries = end - begin;
    args.shape.keys = prepared_.latents;
    if (order_.scores.plan == Plan::kTextbook) {
      project(begin, end, args, workspace);
    } else {
      absorb(begin, end, args, workspace);
    }
    point_values(args);
    args.out = {to.data, 0, args.shape.v_dim, to.stride};
    args.bfloat16 = parts_.weights.precision == Precision::kBF16;
    kernels::attend(args);
    mask_rows(begin, end, to);
  }

  void project(int64_t begin, int64_t end, AttendForward<float>& args, Workspace& workspace) const {
    const int64_t qk = parts_.shape().qk_channels, dk = parts_.qk_dim();
    args.shape.qk_dim = dk;
    args.k = {prepared_.example(b_).data, 0, dk, prepared_.width};
    if (kept_ != nullptr) {
      args.q = {kept_ + begin * qk, 0, dk, qk};
      return;
    }
    const Matrix q = workspace.dense(end - begin, qk);
    const Workspace::Scope scope(workspace);
    parts_.packed_query().apply(normed(begin, end, workspace), q);
    args.q = {q.data, 0, dk, q.stride};
  }

  void absorb(int64_t begin, int64_t end, AttendForward<float>& args, Workspace& workspace) const {
    const int64_t width = parts_.shape().query_channels, n = prepared_.latents;
    const int64_t first_head = b_ * parts_.shape().num_heads;
    args.k = {prepared_.keys.data() + first_head * n * width, 0, n * width, width};
    args.key_bias = prepared_.key_bias.data() + first_head * n;
    if (factored_ == nullptr) {
      const Matrix rows = normed(begin, end, workspace);
      args.shape.qk_dim = width;
      args.q = {rows.data, 0, 0, rows.stride};
      return;
    }
    const TokenFactors& factors = factored_->factors;
    const Matrix content = workspace.matrix(end - begin, factors.content_channels());
    if (content.columns > 0) {
      queries_.content(b_, begin, end, content);
    }
    float* scale = workspace.take(end - begin);
    const int64_t first = queries_.first_row() + begin;
    factors.scales(content, neighbours(first, first + content.rows), parts_.weights.eps, scale);
    args.shape.qk_dim = content.columns;
    args.q = {content.data, 0, 0, content.stride};
    args.grid.side = GridSide::kQueries;
    args.grid.num_axes = factors.num_axes();
    args.grid.begin = first;
    args.grid.scale = scale;
    for (int axis = 0; axis < factors.num_axes(); ++axis) {
      const int64_t extent = factors.extent(axis);
      args.grid.extents[axis] = extent;
      args.grid.tables[axis] = {
          factored_->tables[static_cast<size_t>(axis)].data() + first_head * extent * n, 0,
          extent * n, n};
    }
  }

  void point_values(AttendForward<float>& args) const {
    const AttentionShape& shape = parts_.shape();
    if (order_.values_composed) {
      const int64_t n = prepared_.latents, width = shape.output_channels;
      args.shape.v_dim = width;
      args.v = {prepared_.values.data() + b_ * shape.num_heads * n * width, 0, n * width, width};
      return;
    }
    args.shape.v_dim = parts_.v_dim();
    args.v = {prepared_.example(b_).data + shape.qk_channels, 0, args.shape.v_dim, prepared_.width};
  }

  Matrix normed(int64_t begin, int64_t end, Workspace& workspace) const {
    return normed_rows(queries_, b_, begin, end, parts_.weights.eps,
                       workspace.dense(end - begin, queries_.channels()));
  }

  /// A masked query attends to nothing; only the output's bias is left of it.
  void mask_rows(int64_t begin, int64_t end, Matrix to) const {
    const uint8_t* mask = queries_.mask(b_);
    const std::vector<float>& bias = parts_.weights.output.bias;
    for (int64_t i = begin; i < end && mask != nullptr; ++i) {
      if (mask[i] != 0) {
        continue;
      }
      std::fill_n(to.row(i - begin), to.columns, 0.0F);
      if (order_.values_composed) {
        std::copy(bias.begin(), bias.end(), to.row(i - begin));
      }
    }
  }

  void add_heads(ConstMatrix heads, Matrix x) const {
    for (int64_t i = 0; i < x.rows; ++i) {
      std::copy_n(heads.row(i), x.columns, x.row(i));
      for (int64_t c = x.columns; c < heads.columns; ++c) {
        x.row(i)[c % x.columns] += heads.row(i)[c];
      }
    }
  }

  Decoder::Parts& parts_;
  const Decoder::Prepared& prepared_;
  TokenSource& queries_;
  RowTail& tail_;
  const RowOrder& order_;
  int64_t b_;
  const float* kept_ = nullptr;
  const FactoredTables* factored_ = nullptr;
};

}  // namespace

ScoreChoice Decoder::choice(const Prepared& prepared, const OutputSpec& output,
                            const TokenSource& queries) const {
  return choose_order(*parts_, prepared, output, queries, false).scores;
}

void Decoder::rows(const Prepared& prepared, const OutputSpec& output, TokenSource& queries,
                   int64_t b, int64_t begin, int64_t end, Matrix out, Workspace& workspace,
                   Matrix rows_before_head) const {
  Parts& parts = *parts_;
  if (queries.channels() != parts.shape().query_channels) {
    throw Error(ErrorCode::kShape,
                cat("[output ", output.name, "] queries have ", queries.channels(),
                    " channels, the decoder reads ", parts.shape().query_channels));
  }
  const RowOrder order =
      choose_order(parts, prepared, output, queries, rows_before_head.data != nullptr);
  RowReader reader(parts, prepared, output, queries, b, order, workspace);
  const int64_t step = reader.block_rows();
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(first + step, end);
    const Matrix whole = rows_before_head.data == nullptr
                             ? Matrix{}
                             : rows_before_head.block(first - begin, last - begin);
    reader.block(first, last, out.block(first - begin, last - begin), whole, workspace);
  }
}

}  // namespace perceiver::runtime
