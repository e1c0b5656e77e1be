#include "kernels/attend_backward.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/attend_case.h"
#include "kernels/wide_lanes_backward.h"
#include "perceiver/kernels/attend.h"
#include "perceiver/kernels/dispatch.h"

namespace perceiver::kernels {
namespace {

constexpr float kGuard = -12345.0F;  ///< between the rows of every result
constexpr int64_t kGap = 3;

struct Case {
  std::string name;
  AttendShape shape;
  GridSide side = GridSide::kNone;
  std::vector<int64_t> extents = {};
  int64_t begin = 0;
  bool token_scale = false;
  bool mask = false, empty_batch = false, bias = false;
  bool side_gradients = false;  ///< lse and, of a grid of keys, the sums have gradients too
  bool shared_batch = false, shared_heads = false;  ///< of every input that can be
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

template <typename T>
struct Array {
  std::vector<T> values;
  Rows<T> rows() { return {values.data(), batch, head, row}; }
  Rows<const T> const_rows() const { return {values.data(), batch, head, row}; }
  int64_t batch = 0, head = 0, row = 0;
};

/// One attention in float or double with all its gradients; arrays lie [batch, row, head, width]
/// with a guarded gap behind every row.
template <typename T>
struct Problem {
  Case test;
  Array<T> q, k, v, out, grad_out, grad_q, grad_k, grad_v;
  std::vector<Array<T>> tables, sums, grad_sums, grad_tables;
  std::vector<T> lse, grad_lse, bias, scale, grad_bias, grad_scale;
  std::vector<uint8_t> mask;
  AttendBackward<T> args;
};

class Maker {
 public:
  explicit Maker(const Case& c) : c_(c) {}

  /// Values are floats, so that both widths compute with the same numbers.
  template <typename T>
  Array<T> rows(int64_t count, int64_t width, bool may_share, double spread) {
    const bool one_batch = c_.shape.batch == 1 || (may_share && c_.shared_batch);
    const bool one_head = c_.shape.heads == 1 || (may_share && c_.shared_heads);
    const int64_t heads = one_head ? 1 : c_.shape.heads;
    Array<T> x;
    x.row = heads * (width + kGap);
    x.head = one_head ? 0 : width + kGap;
    x.batch = one_batch ? 0 : count * x.row;
    x.values.assign(static_cast<size_t>((one_batch ? 1 : c_.shape.batch) * count * x.row),
                    static_cast<T>(kGuard));
    for (size_t i = 0; i < x.values.size(); ++i) {
      if (static_cast<int64_t>(i) % (width + kGap) < width) {
        x.values[i] = draw<T>(spread);
      }
    }
    return x;
  }
  template <typename T>
  std::vector<T> list(int64_t count, double spread, double middle = 0) {
    std::vector<T> x(static_cast<size_t>(count));
    for (T& value : x) {
      value = static_cast<T>(static_cast<float>(middle)) + draw<T>(spread);
    }
    return x;
  }
  std::vector<uint8_t> mask() {
    std::vector<uint8_t> x(static_cast<size_t>(c_.shape.batch * c_.shape.keys));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = draw<float>(1) > -0.5F;
      if (c_.empty_batch && static_cast<int64_t>(i) < c_.shape.keys) {
        x[i] = 0;
      }
    }
    return x;
  }

 private:
  template <typename T>
  T draw(double spread) {
    return static_cast<T>(static_cast<float>(spread * normal_(random_)));
  }
  const Case& c_;
  std::mt19937 random_{7};
  std::normal_distribution<double> normal_;
};

template <typename T>
void make_arrays(Problem<T>& p) {
  const Case& c = p.test;
  const AttendShape& s = c.shape;
  Maker make(c);
  p.q = make.rows<T>(s.queries, s.qk_dim, true, 1);
  p.k = make.rows<T>(s.keys, s.qk_dim, true, 1);
  p.v = make.rows<T>(s.keys, s.v_dim, true, 1);
  p.out = make.rows<T>(s.queries, s.v_dim, false, 0);
  p.grad_out = make.rows<T>(s.queries, s.v_dim, false, 1);
  p.lse.resize(static_cast<size_t>(s.batch * s.heads * s.queries));
  p.mask = c.mask ? make.mask() : std::vector<uint8_t>();
  const int64_t scales = c.shared_batch ? 1 : s.batch;
  const bool on_keys = c.side == GridSide::kKeys;
  if (c.bias) {
    p.bias = make.list<T>(s.batch * s.heads * s.keys, 1);
  }
  if (c.token_scale) {
    p.scale = make.list<T>(scales * (on_keys ? s.keys : s.queries), 0.2, 1);
  }
  for (const int64_t extent : c.extents) {
    const auto table = [&](bool may_share, double spread) {
      return on_keys ? make.rows<T>(s.queries, extent, may_share, spread)
                     : make.rows<T>(extent, s.keys, may_share, spread);
    };
    p.tables.push_back(table(true, 1));
    p.grad_tables.push_back(table(true, 0.1));
    if (on_keys) {
      p.sums.push_back(table(false, 0));
      p.grad_sums.push_back(table(false, 1));
    }
  }
  p.grad_lse = make.list<T>(static_cast<int64_t>(p.lse.size()), 1);
  p.grad_q = make.rows<T>(s.queries, s.qk_dim, true, 0.1);  // gradients are added to
  p.grad_k = make.rows<T>(s.keys, s.qk_dim, true, 0.1);
  p.grad_v = make.rows<T>(s.keys, s.v_dim, true, 0.1);
  p.grad_bias = make.list<T>(static_cast<int64_t>(p.bias.size()), 0.1);
  p.grad_scale = make.list<T>(static_cast<int64_t>(p.scale.size()), 0.1);
}

template <typename T>
void point_arguments(Problem<T>& p) {
  const Case& c = p.test;
  AttendForward<T>& forward = p.args.forward;
  forward.shape = c.shape;
  forward.q = p.q.const_rows();
  forward.k = p.k.const_rows();
  forward.v = p.v.const_rows();
  forward.scale = static_cast<T>(0.5F);
  forward.key_mask = c.mask ? p.mask.data() : nullptr;
  forward.key_mask_batch = c.shape.keys;
  forward.key_bias = c.bias ? p.bias.data() : nullptr;
  forward.out = p.out.rows();
  forward.lse = p.lse.data();
  TokenGrid<T>& grid = forward.grid;
  grid.side = c.side;
  grid.num_axes = static_cast<int>(c.extents.size());
  grid.begin = c.begin;
  grid.scale = c.token_scale ? p.scale.data() : nullptr;
  const int64_t tokens = c.side == GridSide::kKeys ? c.shape.keys : c.shape.queries;
  grid.scale_batch = c.shared_batch ? 0 : tokens;
  p.args.grad_out = p.grad_out.const_rows();
  p.args.grad_q = p.grad_q.rows();
  p.args.grad_k = p.grad_k.rows();
  p.args.grad_v = p.grad_v.rows();
  p.args.grad_key_bias = c.bias ? p.grad_bias.data() : nullptr;
  p.args.grad_scale = c.token_scale ? p.grad_scale.data() : nullptr;
  p.args.grad_lse = c.side_gradients ? p.grad_lse.data() : nullptr;
  for (size_t x = 0; x < c.extents.size(); ++x) {
    grid.extents[x] = c.extents[x];
    grid.tables[x] = p.tables[x].const_rows();
    p.args.grad_tables[x] = p.grad_tables[x].rows();
    if (c.side == GridSide::kKeys) {
      forward.sums[x] = p.sums[x].rows();
      if (c.side_gradients && x != 1) {  // axis 1 has none: null is zero
        p.args.grad_sums[x] = p.grad_sums[x].const_rows();
      }
    }
  }
}

/// A masked key's entries in the tables of a grid of queries may hold anything.
template <typename T>
void poison_masked_entries(Problem<T>& p) {
  const AttendShape& s = p.test.shape;
  for (size_t x = 0; x < p.tables.size(); ++x) {
    for (int64_t row = 0; row < s.batch * s.heads * p.test.extents[x]; ++row) {
      const int64_t pair = row / p.test.extents[x], c = row % p.test.extents[x];
      const Array<T>& table = p.tables[x];
      const int64_t at = pair / s.heads * table.batch + pair % s.heads * table.head + c * table.row;
      for (int64_t j = 0; j < s.keys; ++j) {
        if (p.mask[static_cast<size_t>(pair / s.heads * s.keys + j)] == 0) {
          p.tables[x].values[static_cast<size_t>(at + j)] = std::numeric_limits<T>::quiet_NaN();
        }
      }
    }
  }
}

/// Inputs, results of the forward pass, and gradients that already hold something.
template <typename T>
Problem<T> make_problem(const Case& c) {
  Problem<T> p;
  p.test = c;
  make_arrays(p);
  if (c.side == GridSide::kQueries && c.mask && !c.shared_batch) {
    poison_masked_entries(p);
  }
  point_arguments(p);
  attend_reference(p.args.forward);
  return p;
}

/// Every gradient array with its name.
template <typename T>
std::vector<std::pair<std::string, const std::vector<T>*>> gradients(const Problem<T>& p) {
  std::vector<std::pair<std::string, const std::vector<T>*>> all{{"q", &p.grad_q.values},
                                                                 {"k", &p.grad_k.values},
                                                                 {"v", &p.grad_v.values},
                                                                 {"bias", &p.grad_bias},
                                                                 {"scale", &p.grad_scale}};
  for (const Array<T>& table : p.grad_tables) {
    all.emplace_back("table", &table.values);
  }
  return all;
}

void expect_close(const Problem<float>& got, const Problem<double>& expected,
                  const std::string& where) {
  const auto ours = gradients(got);
  const auto theirs = gradients(expected);
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    const std::vector<float>& x = *ours[i].second;
    const std::vector<double>& y = *theirs[i].second;
    ASSERT_EQ(x.size(), y.size());
    double largest = 1, worst = 0;
    for (size_t e = 0; e < x.size(); ++e) {
      if (y[e] == static_cast<double>(kGuard)) {
        ASSERT_EQ(x[e], kGuard) << where << ": wrote between rows of grad_" << ours[i].first;
        continue;
      }
      largest = std::max(largest, std::abs(y[e]));
      const double off = std::abs(static_cast<double>(x[e]) - y[e]);
      worst = off <= worst ? worst : off;  // NaN is the worst
    }
    EXPECT_LT(worst / largest, 1e-5) << where << ": grad_" << ours[i].first;
  }
}

std::vector<std::string> runnable_kernels() {
  std::vector<std::string> names;
  for (const KernelSet& set : kernel_sets()) {
    if (set.runs_here) {
      names.push_back(set.name);
    }
  }
  return names;
}

bool same_bits(float x, float y) {
  return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
}

class AttendBackwardTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { before_ = active_kernels(); }
  void TearDown() override { use_kernels(before_); }

 private:
  std::string before_;
};

TEST_P(AttendBackwardTest, EverySetAndThreadCountAgreesWithTheReference) {
  Problem<double> expected = make_problem<double>(GetParam());
  attend_backward_reference(expected.args);
  for (const std::string& kernels : runnable_kernels()) {
    ASSERT_TRUE(use_kernels(kernels));
    for (const int threads : {1, 2, 3, 8}) {
      Problem<float> got = make_problem<float>(GetParam());
      attend_backward(got.args, threads);
      expect_close(got, expected, kernels + " on " + std::to_string(threads) + " threads");
    }
  }
}

TEST_P(AttendBackwardTest, SameCallSameBytes) {
  for (const int threads : {1, 3}) {
    Problem<float> first = make_problem<float>(GetParam()), second = first;
    point_arguments(second);
    attend_backward(first.args, threads);
    attend_backward(second.args, threads);
    const auto x = gradients(first), y = gradients(second);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_TRUE(
          std::equal(x[i].second->begin(), x[i].second->end(), y[i].second->begin(), same_bits))
          << "grad_" << x[i].first << " on " << threads << " threads";
    }
  }
}

/// Leaves one of the six kinds of gradients wanted.
template <typename T>
void want_only(int kind, AttendBackward<T>& args) {
  args.grad_q.data = kind == 0 ? args.grad_q.data : nullptr;
  args.grad_k.data = kind == 1 ? args.grad_k.data : nullptr;
  args.grad_v.data = kind == 2 ? args.grad_v.data : nullptr;
  args.grad_key_bias = kind == 3 ? args.grad_key_bias : nullptr;
  args.grad_scale = kind == 4 ? args.grad_scale : nullptr;
  for (Rows<T>& table : args.grad_tables) {
    table.data = kind == 5 ? table.data : nullptr;
  }
}

TEST_P(AttendBackwardTest, MakesOnlyWhatIsAskedFor) {
  for (int kind = 0; kind < 6; ++kind) {
    Problem<double> expected = make_problem<double>(GetParam());
    want_only(kind, expected.args);
    attend_backward_reference(expected.args);
    Problem<float> got = make_problem<float>(GetParam());
    want_only(kind, got.args);
    attend_backward(got.args, 2);
    expect_close(got, expected, "kind " + std::to_string(kind));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttendBackwardTest,
    testing::Values(
        Case{.name = "one of everything", .shape = {1, 1, 1, 1, 1, 1}},
        Case{.name = "one query", .shape = {2, 2, 1, 300, 5, 7}, .side_gradients = true},
        Case{.name = "one key", .shape = {2, 3, 300, 1, 5, 7}, .bias = true},
        Case{.name = "square", .shape = {1, 1, 200, 200, 32, 32}},
        Case{.name = "many heads, wide values", .shape = {2, 5, 70, 90, 8, 40}, .mask = true},
        Case{.name = "no valid key",
             .shape = {3, 2, 33, 50, 9, 17},
             .mask = true,
             .empty_batch = true,
             .bias = true,
             .side_gradients = true},
        Case{.name = "shared over batches",
             .shape = {3, 2, 100, 37, 6, 5},
             .bias = true,
             .shared_batch = true},
        Case{.name = "shared over heads",
             .shape = {2, 3, 37, 210, 6, 5},
             .bias = true,
             .shared_heads = true},
        Case{.name = "shared over both, more queries",
             .shape = {2, 3, 210, 37, 6, 5},
             .side = GridSide::kQueries,
             .extents = {20, 12},
             .begin = 7,
             .token_scale = true,
             .shared_batch = true,
             .shared_heads = true},
        Case{.name = "no content in the scores",
             .shape = {1, 1, 130, 20, 0, 3},
             .side = GridSide::kQueries,
             .extents = {10, 13},
             .token_scale = true},
        Case{.name = "keys only scaled",
             .shape = {2, 2, 20, 90, 4, 4},
             .side = GridSide::kKeys,
             .token_scale = true},
        Case{.name = "keys on a line",
             .shape = {1, 2, 40, 220, 3, 5},
             .side = GridSide::kKeys,
             .extents = {230},
             .begin = 6,
             .token_scale = true,
             .side_gradients = true},
        Case{.name = "many keys on a plane",
             .shape = {2, 1, 30, 500, 65, 66},
             .side = GridSide::kKeys,
             .extents = {23, 23},
             .begin = 11,
             .token_scale = true,
             .mask = true,
             .empty_batch = true,
             .bias = true,
             .side_gradients = true},
        Case{.name = "few keys on a plane",
             .shape = {1, 3, 301, 40, 12, 4},
             .side = GridSide::kKeys,
             .extents = {6, 7},
             .begin = 1,
             .token_scale = true,
             .side_gradients = true},
        Case{.name = "keys in a box",
             .shape = {2, 2, 50, 120, 4, 3},
             .side = GridSide::kKeys,
             .extents = {4, 5, 6},
             .token_scale = true,
             .side_gradients = true,
             .shared_batch = true,
             .shared_heads = true},
        Case{.name = "keys in four dimensions, no scale",
             .shape = {1, 2, 20, 36, 4, 3},
             .side = GridSide::kKeys,
             .extents = {2, 3, 2, 3},
             .side_gradients = true},
        Case{.name = "queries only scaled",
             .shape = {2, 2, 20, 90, 4, 4},
             .side = GridSide::kQueries,
             .token_scale = true},
        Case{.name = "many queries on a plane",
             .shape = {2, 1, 500, 100, 33, 130},
             .side = GridSide::kQueries,
             .extents = {23, 23},
             .begin = 3,
             .token_scale = true,
             .mask = true,
             .bias = true,
             .side_gradients = true},
        Case{.name = "few queries in a box",
             .shape = {2, 2, 55, 230, 4, 3},
             .side = GridSide::kQueries,
             .extents = {4, 5, 3},
             .begin = 5,
             .token_scale = true,
             .mask = true}));

// ---- the shapes of the forward tests ----

/// A gradient laid out like an input, zero, with a pattern between its rows.
struct LikeInput {
  std::vector<float> values;
  Rows<float> rows;

  LikeInput(const Rows<const float>& input, const AttendShape& shape, int64_t count,
            int64_t width) {
    if (input.data == nullptr || count * width == 0) {
      return;
    }
    const int64_t size = (shape.batch - 1) * input.batch + (shape.heads - 1) * input.head +
                         (count - 1) * input.row + width;
    values.assign(static_cast<size_t>(size), kGuard);
    for (int64_t row = 0; row < shape.batch * shape.heads * count; ++row) {
      const int64_t i = row % count, pair = row / count;
      const int64_t at =
          pair / shape.heads * input.batch + pair % shape.heads * input.head + i * input.row;
      std::fill_n(values.begin() + at, width, 0.0F);
    }
    rows = {values.data(), input.batch, input.head, input.row};
  }
};

/// All gradients of one line of the shape file.
class LineGradients {
 public:
  LineGradients(const AttendForward<float>& forward, const AttendResults& cotangent)
      : shape_(forward.shape) {
    args.forward = forward;
    const TokenGrid<float>& grid = forward.grid;
    const bool on_keys = grid.side == GridSide::kKeys;
    rows_.emplace_back("q", LikeInput(forward.q, shape_, shape_.queries, shape_.qk_dim));
    rows_.emplace_back("k", LikeInput(forward.k, shape_, shape_.keys, shape_.qk_dim));
    rows_.emplace_back("v", LikeInput(forward.v, shape_, shape_.keys, shape_.v_dim));
    for (int x = 0; x < grid.num_axes; ++x) {
      rows_.emplace_back(
          "table", LikeInput(grid.tables[x], shape_, on_keys ? shape_.queries : grid.extents[x],
                             on_keys ? grid.extents[x] : shape_.keys));
    }
    scale_.resize(static_cast<size_t>(shape_.batch * (on_keys ? shape_.keys : shape_.queries)));
    bias_.resize(static_cast<size_t>(shape_.batch * shape_.heads * shape_.keys));
    cotangent_ = cotangent;
    args.grad_out = cotangent_.out.inputs();
    args.grad_lse = cotangent_.lse.inputs().data;
    args.grad_q = rows_[0].second.rows;
    args.grad_k = rows_[1].second.rows;
    args.grad_v = rows_[2].second.rows;
    args.grad_scale = grid.scale == nullptr ? nullptr : scale_.data();
    args.grad_key_bias = forward.key_bias == nullptr ? nullptr : bias_.data();
    for (int x = 0; x < grid.num_axes; ++x) {
      args.grad_tables[x] = rows_[static_cast<size_t>(3 + x)].second.rows;
      if (on_keys && forward.sums[x].data != nullptr) {
        args.grad_sums[x] = cotangent_.sums[x].inputs();
      }
    }
  }

  /// Empty, or the array that is off by more than `tolerance` of its largest value.
  std::string difference(const LineGradients& expected, float tolerance) const {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!close(rows_[i].second.values, expected.rows_[i].second.values, tolerance)) {
        return "grad_" + rows_[i].first;
      }
    }
    return !close(scale_, expected.scale_, tolerance) ? "grad_scale"
           : !close(bias_, expected.bias_, tolerance) ? "grad_key_bias"
                                                      : "";
  }

  AttendBackward<float> args;

 private:
  static bool close(const std::vector<float>& x, const std::vector<float>& y, float tolerance) {
    float largest = 1;
    for (const float value : y) {
      largest = value == kGuard ? largest : std::max(largest, std::abs(value));
    }
    for (size_t i = 0; i < x.size(); ++i) {
      const float allowed = y[i] == kGuard ? 0 : tolerance * largest;
      if (!(std::abs(x[i] - y[i]) <= allowed)) {
        return false;
      }
    }
    return true;
  }

  AttendShape shape_;
  AttendResults cotangent_;
  std::vector<std::pair<std::string, LikeInput>> rows_;
  std::vector<float> scale_, bias_;
};

AttendResults random_cotangent(const AttendCase& attend_case) {
  AttendResults cotangent = attend_case.make_results();
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto fill = [&](GuardedRows& rows) {
    for (int64_t row = 0; row < rows.batches * rows.heads * rows.num_rows; ++row) {
      const int64_t pair = row / rows.num_rows;
      for (int64_t c = 0; c < rows.width; ++c) {
        rows.at(pair / rows.heads, pair % rows.heads, row % rows.num_rows, c) = normal(random);
      }
    }
  };
  fill(cotangent.out);
  fill(cotangent.lse);
  for (GuardedRows& sums : cotangent.sums) {
    fill(sums);
  }
  return cotangent;
}

using RunBackward = void (*)(const AttendBackward<float>& args, int threads);

TEST(AttendBackwardShapes, EverySetAgreesWithTheReferenceOnTheForwardTestsShapes) {
  const std::string before = active_kernels();
  std::vector<std::pair<std::string, RunBackward>> sets;
  for (const std::string& name : runnable_kernels()) {
    sets.emplace_back(name, attend_backward);
  }
  if (wide_lanes_backward() != nullptr) {
    sets.emplace_back("wide lanes", [](const AttendBackward<float>& args, int threads) {
      run_backward(args, *wide_lanes_backward(), threads);
    });
  }
  for (const AttendLine& line : read_lines(PERCEIVER_SOURCE_DIR "/tests/shapes/attend.txt")) {
    const AttendCase attend_case(line);
    AttendResults results = attend_case.make_results();
    const AttendForward<float> forward = attend_case.call(results);
    attend_reference(forward);
    const AttendResults cotangent = random_cotangent(attend_case);
    LineGradients expected(forward, cotangent);
    attend_backward_reference(expected.args);
    // scores of size^2 carry rounding errors of that size into the exponent
    const float longest = line.size * line.size * std::max(1.0F, line.steps);
    const float tolerance = std::max(1e-5F, 2e-6F * longest);
    for (const auto& [name, run] : sets) {
      use_kernels(name);
      for (const int threads : {1, 3}) {
        LineGradients actual(forward, cotangent);
        run(actual.args, threads);
        EXPECT_EQ(actual.difference(expected, tolerance), "")
            << name << " on " << threads << " threads: " << line.text;
      }
    }
  }
  use_kernels(before);
}

}  // namespace
}  // namespace perceiver::kernels
