#include "perceiver/spec/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"
#include "spec/real.h"

namespace perceiver {
namespace {

constexpr size_t kMaxGridAxes = 4;     // what the attention kernels take
constexpr double kMostKept = 1 << 24;  // numbers of projected queries worth keeping between calls

constexpr std::array<Plan, 3> kPlans{Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored};

using spec_detail::d;

/// Work of one attention module, by how well a CPU does it.
class Work {
 public:
  /// [rows, inner] x [inner, columns] by the GEMM library.
  void product(double rows, int64_t inner, int64_t columns) {
    add(2 * rows * d(inner) * d(columns));
  }
  void add(double product_flops) { product_flops_ += product_flops; }
  /// Scores and weighted sums, `axes` of the positions added to every score and every sum.
  void attend(double heads, double queries, double keys, int64_t qk, int64_t v, size_t axes = 0) {
    const double scores = heads * queries * keys;
    attend_flops_ += 2 * scores * d(qk + v + static_cast<int64_t>(axes));
    // A row of the result is whole vector registers, and a score costs an exponential however
    // narrow its products are.
    constexpr int64_t kRegister = 16;
    const int64_t padded = (v + kRegister - 1) / kRegister * kRegister;
    attend_weighted_ += scores * (kAttendWeight * 2 * d(qk + padded) + kPerScore +
                                  kPerAxis * static_cast<double>(axes));
  }
  double flops() const { return product_flops_ + attend_flops_; }
  /// In units of one flop of a large matrix product.
  double weighted() const { return product_flops_ + attend_weighted_; }

  Work& operator+=(const Work& other) {
    product_flops_ += other.product_flops_;
    attend_flops_ += other.attend_flops_;
    attend_weighted_ += other.attend_weighted_;
    return *this;
  }

 private:
  static constexpr double kAttendWeight = 1.25;  // its products run somewhat below the library's
  static constexpr double kPerScore = 24;        // maximum, exponential, sum
  static constexpr double kPerAxis = 8;          // a lookup and a scattered sum
  double product_flops_ = 0, attend_flops_ = 0, attend_weighted_ = 0;
};

/// Rows of one modality, on the large side of an attention.
struct Segment {
  double rows = 0;
  int64_t content = 0;
  std::vector<int64_t> extents;  ///< of the grid, when `factors`
  int64_t axis_channels = 0;     ///< position channels of each axis
  bool factors = false;
  std::string obstacle;   ///< why it does not factor
  bool constant = false;  ///< rows that depend on weights alone
};

/// Multiplying rows of the small side with every axis' features.
double table_flops(const Segment& segment, double rows) {
  double extents = 0;
  for (const int64_t extent : segment.extents) {
    extents += d(extent);
  }
  return 2 * rows * extents * d(segment.axis_channels);
}

std::string obstacle_of(const PositionSpec& position, size_t axes) {
  if (position.kind == PositionKind::kNone) {
    return "has no positions";
  }
  if (position.kind == PositionKind::kTrainable) {
    return "learned positions";
  }
  if (position.use == PositionUse::kAdd) {
    return "positions added to the content";
  }
  if (position.project_channels > 0 || position.num_extra_linears > 0) {
    return "a linear layer after the positions";
  }
  return axes > kMaxGridAxes ? cat("a grid of ", axes, " axes") : "";
}

void set_grid(Segment& segment, const PositionSpec& position, const std::vector<int64_t>& grid) {
  segment.obstacle = obstacle_of(position, grid.size());
  segment.factors = segment.obstacle.empty();
  segment.extents = grid;
  segment.axis_channels =
      position.num_bands * (position.sine_only ? 1 : 2) + (position.concat_pos ? 1 : 0);
}

Segment segment_of(const InputSpec& input, const TokenShape& tokens) {
  Segment segment;
  segment.rows = d(tokens.tokens);
  segment.content = tokens.content_channels;
  if (input.kind == InputKind::kSet) {
    segment.obstacle = "a set has no grid";
  } else if (input.mask_probability > 0) {
    segment.obstacle = "tokens replaced at random";
  } else {
    set_grid(segment, input.position, tokens.index_dims);
  }
  return segment;
}

Segment segment_of(const ModelSpec& spec, const ModelShape& shape, const OutputSpec& output,
                   const QueryShape& query, bool selected) {
  Segment segment;
  segment.rows = d(query.rows);
  const auto input_content = [&] {
    const auto found =
        std::find_if(shape.inputs.begin(), shape.inputs.end(),
                     [&](const TokenShape& tokens) { return tokens.name == output.of_input; });
    return found == shape.inputs.end() ? Segment{} : segment_of(spec.input(found->name), *found);
  };
  switch (output.query) {
    case QueryKind::kLearned:
      segment.obstacle = "learned queries";
      segment.constant = !output.concat_input;
      break;
    case QueryKind::kFourier:
      set_grid(segment, output.position, output.index_dims);
      segment.content = output.concat_input ? input_content().content : 0;
      segment.constant = !output.concat_input;
      break;
    case QueryKind::kInputTokens:
      segment = input_content();
      break;
    case QueryKind::kInputContent:
      segment.obstacle = "queries without positions";
      break;
    case QueryKind::kCoordinates:
    case QueryKind::kCaller:
      segment.obstacle = "queries given by the caller";
      break;
  }
  if (selected && segment.factors) {
    segment.factors = false;
    segment.obstacle = "only some rows are asked for, taken to be scattered";
  }
  return segment;
}

/// What one attention costs in each order, and what keeps it from the factored one.
class Costs {
 public:
  const Work& of(Plan plan) const { return by_plan_[static_cast<size_t>(plan) - 1]; }
  Work& of(Plan plan) { return by_plan_[static_cast<size_t>(plan) - 1]; }

  void note(const char* kind, const std::string& name, const Segment& segment) {
    if (segment.factors) {
      factors_ = true;
    } else if (noted_ == kMostNoted) {
      ++more_;
    } else {
      obstacles_ +=
          cat(noted_ == 0 ? "" : ", ", kind, " \"", printable(name, 40), "\": ", segment.obstacle);
      ++noted_;
    }
  }
  bool factors() const { return factors_; }
  /// `input "label": has no positions`, or empty.
  std::string obstacles() const {
    return more_ > 0 ? cat(obstacles_, " and ", more_, " more") : obstacles_;
  }

 private:
  static constexpr int kMostNoted = 3;
  std::array<Work, 3> by_plan_;
  bool factors_ = false;
  std::string obstacles_;
  int noted_ = 0, more_ = 0;
};

void mlp(const AttentionShape& a, double rows, Work& work) {
  work.product(rows, a.query_channels, a.mlp_channels);
  work.product(rows, a.mlp_channels, a.query_channels);
}

/// latents <- tokens. @param constant  the latents are the model's parameter
Work read_tokens(const AttentionShape& a, Plan plan, const std::vector<Segment>& segments,
                 double batch, int64_t latents, bool constant) {
  const double n = d(latents);
  const double heads = d(a.num_heads);
  Work work;
  if (!constant) {
    work.product(batch * n, a.query_channels, a.qk_channels);
    if (plan != Plan::kTextbook) {
      work.product(batch * n, a.qk_channels, a.input_channels);
    }
  }
  for (const Segment& segment : segments) {
    const double rows = segment.rows;
    if (plan == Plan::kTextbook) {
      work.product(batch * rows, a.input_channels, a.qk_channels + a.v_channels);
      work.attend(batch * heads, n, rows, a.qk_channels / a.num_heads, a.v_channels / a.num_heads);
    } else if (plan == Plan::kFactored && segment.factors) {
      work.attend(batch * heads, n, rows, segment.content, segment.content, segment.extents.size());
      // scores' tables (constants beside constant latents) and the way back from the sums
      work.add((constant ? 1 : 2) * table_flops(segment, batch * heads * n));
    } else {
      work.attend(batch * heads, n, rows, a.input_channels, a.input_channels);
    }
  }
  if (plan != Plan::kTextbook) {
    work.product(batch * n, a.input_channels, a.v_channels);
  }
  work.product(batch * n, a.v_channels, a.output_channels);
  mlp(a, batch * n, work);
  return work;
}

/// rows <- latents.
Work ask_latents(const AttentionShape& a, Plan plan, const std::vector<Segment>& segments,
                 double batch, int64_t latents, bool constants) {
  const double n = d(latents);
  const double heads = d(a.num_heads);
  Work work;
  work.product(batch * n, a.input_channels, a.qk_channels + a.v_channels);
  if (plan != Plan::kTextbook) {
    work.product(batch * n, a.query_channels, a.qk_channels + a.v_channels);
  }
  for (const Segment& segment : segments) {
    const double rows = segment.rows;
    if (plan == Plan::kTextbook) {
      const bool kept = constants && segment.constant && rows * d(a.qk_channels) < kMostKept;
      if (!kept) {
        work.product(batch * rows, a.query_channels, a.qk_channels);
      }
      work.attend(batch * heads, rows, n, a.qk_channels / a.num_heads, a.v_channels / a.num_heads);
      work.product(batch * rows, a.v_channels, a.output_channels);
    } else if (plan == Plan::kFactored && segment.factors) {
      work.attend(batch * heads, rows, n, segment.content, a.query_channels,
                  segment.extents.size());
      work.add(table_flops(segment, batch * heads * n));
    } else {
      work.attend(batch * heads, rows, n, a.query_channels, a.query_channels);
    }
    mlp(a, batch * rows, work);
  }
  return work;
}

std::string giga(double flops) {
  const double value = flops / 1e9;
  const double unit = value >= 10 ? 1 : value >= 0.1 ? 10 : 1000;
  return cat(std::round(value * unit) / unit, " GFLOP");
}

Plan cheapest(const Costs& costs, std::optional<Plan> except = {}) {
  std::optional<Plan> best;
  for (const Plan plan : kPlans) {
    if (plan != except && (plan != Plan::kFactored || costs.factors()) &&
        (!best || costs.of(plan).weighted() < costs.of(*best).weighted())) {
      best = plan;
    }
  }
  return *best;
}

AttentionPlan decide(const std::string& attention, const Costs& costs, Plan wanted) {
  AttentionPlan decision;
  decision.attention = attention;
  decision.textbook_flops = costs.of(Plan::kTextbook).flops();
  const bool misfit = wanted == Plan::kFactored && !costs.factors();
  decision.plan = wanted == Plan::kAuto ? cheapest(costs) : misfit ? Plan::kAbsorbed : wanted;
  decision.flops = costs.of(decision.plan).flops();
  const Plan other = cheapest(costs, decision.plan);
  const std::string rest = cat(plan_name(other), " would be ", giga(costs.of(other).flops()));
  if (misfit) {
    decision.reason = cat("factored does not apply (", costs.obstacles(), "); ", rest);
  } else if (wanted != Plan::kAuto) {
    decision.reason = cat("as asked; ", rest);
  } else {
    decision.reason = cat("least work by estimate; ", rest);
  }
  if (!misfit && !costs.factors()) {
    decision.reason += cat("; factored does not apply (", costs.obstacles(), ")");
  } else if (decision.plan == Plan::kFactored && !costs.obstacles().empty()) {
    decision.reason += cat("; not factored: ", costs.obstacles());
  }
  return decision;
}

class Planner {
 public:
  Planner(const ModelSpec& spec, const PlanRequest& request)
      : spec_(spec), request_(request), shape_(resolve(spec)), batch_(d(request.batch)) {}

  std::vector<AttentionPlan> plan() {
    add_encoder();
    if (spec_.decoder.kind == DecoderKind::kCrossAttend) {
      add_decoder();
    }
    return std::move(plans_);
  }

 private:
  void add_encoder() {
    Costs none;
    const std::vector<Segment> inputs = input_segments(none);
    std::vector<Costs> sets;  // by weight set
    double self_attends = 0;
    size_t self_at = 0;
    bool fresh = true;  // the latents are still the parameter
    for (const EncoderStep& step : encoder_steps(spec_.encoder)) {
      if (!step.cross) {
        self_at = self_attends > 0 ? self_at : sets.size();
        self_attends += d(spec_.encoder.num_self_attends_per_block);
        fresh = fresh && spec_.encoder.num_self_attends_per_block == 0;
        continue;
      }
      sets.resize(std::max(sets.size(), static_cast<size_t>(step.weight_set) + 1), none);
      for (const Plan plan : kPlans) {
        sets[static_cast<size_t>(step.weight_set)].of(plan) +=
            read_tokens(shape_.encoder_cross, plan, inputs, batch_, spec_.encoder.num_latents,
                        fresh && request_.constant_latents);
      }
      fresh = false;
    }
    for (size_t set = 0; set < sets.size(); ++set) {
      if (set == self_at && self_attends > 0) {
        add_process(self_attends);
      }
      plans_.push_back(decide(cat("encoder.cross_attend.", set), sets[set], request_.wanted));
    }
    if (self_at >= sets.size() && self_attends > 0) {
      add_process(self_attends);
    }
  }

  std::vector<Segment> input_segments(Costs& costs) const {
    const double share = request_.num_inputs < 0 || shape_.num_inputs == 0
                             ? 1
                             : d(request_.num_inputs) / d(shape_.num_inputs);
    std::vector<Segment> segments;
    for (const TokenShape& tokens : shape_.inputs) {
      segments.push_back(segment_of(spec_.input(tokens.name), tokens));
      segments.back().rows *= share;
      costs.note("input", tokens.name, segments.back());
    }
    return segments;
  }

  void add_process(double count) {
    const AttentionShape& a = shape_.self;
    const double n = d(spec_.encoder.num_latents);
    Work work;
    work.product(batch_ * count * n, a.query_channels, 2 * a.qk_channels + a.v_channels);
    work.attend(batch_ * count * d(a.num_heads), n, n, a.qk_channels / a.num_heads,
                a.v_channels / a.num_heads);
    work.product(batch_ * count * n, a.v_channels, a.output_channels);
    // The keys' channels and the queries' are the same here, v_channels included.
    mlp(a, batch_ * count * n, work);
    AttentionPlan plan{"encoder.self_attend", Plan::kTextbook, "", work.flops(), work.flops()};
    plan.reason =
        request_.wanted == Plan::kAuto || request_.wanted == Plan::kTextbook
            ? "queries and keys are equally many"
            : cat(plan_name(request_.wanted), " does not apply: queries and keys are equally many");
    plans_.push_back(plan);
  }

  void add_decoder() {
    const bool selected = request_.num_outputs >= 0 && request_.num_outputs < shape_.num_outputs;
    const double share = request_.num_outputs < 0 || shape_.num_outputs == 0
                             ? 1
                             : d(request_.num_outputs) / d(shape_.num_outputs);
    // Only the caller knows how many rows there are: shared out evenly.
    const double unknown =
        d(std::max<int64_t>(request_.num_outputs, 1)) / static_cast<double>(shape_.outputs.size());
    Costs costs;
    std::vector<Segment> rows;
    for (const QueryShape& query : shape_.outputs) {
      rows.push_back(segment_of(spec_, shape_, spec_.output(query.name), query, selected));
      rows.back().rows = shape_.num_outputs > 0 ? share * rows.back().rows : unknown;
      costs.note("output", query.name, rows.back());
    }
    for (const Plan plan : kPlans) {
      costs.of(plan) = ask_latents(shape_.decoder_cross, plan, rows, batch_,
                                   spec_.encoder.num_latents, request_.constant_latents);
    }
    plans_.push_back(decide("decoder.cross_attend", costs, request_.wanted));
  }

  const ModelSpec& spec_;
  const PlanRequest& request_;
  const ModelShape shape_;
  const double batch_;
  std::vector<AttentionPlan> plans_;
};

}  // namespace

const char* plan_name(Plan plan) {
  switch (plan) {
    case Plan::kAuto:
      return "auto";
    case Plan::kTextbook:
      return "textbook";
    case Plan::kAbsorbed:
      return "absorbed";
    case Plan::kFactored:
      return "factored";
  }
  return "";
}

Plan parse_plan(const std::string& name) {
  for (const Plan plan : {Plan::kAuto, Plan::kTextbook, Plan::kAbsorbed, Plan::kFactored}) {
    if (name == plan_name(plan)) {
      return plan;
    }
  }
  throw Error(ErrorCode::kArgument, cat("unknown plan \"", printable(name),
                                        "\"; there are auto, textbook, absorbed, factored"));
}

std::vector<AttentionPlan> plan_attentions(const ModelSpec& spec, const PlanRequest& request) {
  return Planner(spec, request).plan();
}

}  // namespace perceiver
