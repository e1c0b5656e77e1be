#include "perceiver/nn/attend_terms.h"

#include <cmath>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include "nn/attend_tiles.h"
#include "perceiver/base/error.h"

namespace perceiver::nn {
namespace {

using kernels::GridSide;

enum class Mask { kNone, kSome, kOneBatchEmpty };

struct Case {
  std::string name;
  int64_t batch = 1, heads = 1, queries = 4, keys = 5, qk_dim = 3, v_dim = 2;
  Mask mask = Mask::kNone;
  bool bias = false;
  GridSide side = GridSide::kNone;
  std::vector<int64_t> extents = {};
  int64_t begin = 0;
  bool token_scale = false;
  bool shared = false;  ///< q over batches, k over heads, v over both, tables over batches
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

AttendTerms make_terms(const Case& c) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const int64_t B = c.batch, H = c.heads, Bs = c.shared ? 1 : B, Hs = c.shared ? 1 : H;
  AttendTerms terms;
  terms.q = at::randn({Bs, H, c.queries, c.qk_dim}, options);
  terms.k = at::randn({B, Hs, c.keys, c.qk_dim}, options);
  terms.v = at::randn({Bs, Hs, c.keys, c.v_dim}, options);
  terms.scale = 0.7;
  if (c.mask != Mask::kNone) {
    terms.key_mask = at::rand({B, c.keys}, options) > 0.4;
    terms.key_mask.select(1, 0).fill_(true);
    if (c.mask == Mask::kOneBatchEmpty) {
      terms.key_mask[0].fill_(false);
    }
  }
  if (c.bias) {
    terms.key_bias = at::randn({B, Hs, c.keys}, options);
  }
  terms.grid.side = c.side;
  terms.grid.extents = c.extents;
  terms.grid.begin = c.begin;
  const bool on_keys = c.side == GridSide::kKeys;
  if (c.token_scale) {
    terms.grid.scale = at::rand({Bs, on_keys ? c.keys : c.queries}, options) + 0.5;
  }
  for (const int64_t extent : c.extents) {
    terms.grid.tables.push_back(on_keys ? at::randn({Bs, H, c.queries, extent}, options)
                                        : at::randn({Bs, H, extent, c.keys}, options));
  }
  return terms;
}

/// Every tensor of the terms that takes a gradient, with its name.
std::vector<std::pair<std::string, at::Tensor*>> inputs_of(AttendTerms& terms) {
  std::vector<std::pair<std::string, at::Tensor*>> inputs{
      {"q", &terms.q}, {"k", &terms.k}, {"v", &terms.v}};
  if (terms.key_bias.defined()) {
    inputs.emplace_back("key_bias", &terms.key_bias);
  }
  if (terms.grid.scale.defined()) {
    inputs.emplace_back("scale", &terms.grid.scale);
  }
  for (at::Tensor& table : terms.grid.tables) {
    inputs.emplace_back("table", &table);
  }
  return inputs;
}

at::Tensor finite(const at::Tensor& x) {
  return x.masked_fill(x.isinf(), 0);
}

/// A number that depends on everything attend_terms returns, each with its own weights.
at::Tensor value_of(const Attended& result, const Attended& cotangent) {
  at::Tensor value =
      (result.out * cotangent.out).sum() + (finite(result.lse) * cotangent.lse).sum();
  for (size_t x = 0; x < result.sums.size(); ++x) {
    value = value + (result.sums[x] * cotangent.sums[x]).sum();
  }
  return value;
}

Attended random_like(const Attended& result) {
  Attended random{at::randn(result.out.sizes(), result.out.options()),
                  at::randn(result.lse.sizes(), result.lse.options()),
                  {}};
  for (const at::Tensor& sums : result.sums) {
    random.sums.push_back(at::randn(sums.sizes(), sums.options()));
  }
  return random;
}

using Function = std::function<Attended(const AttendTerms&)>;

std::vector<std::pair<std::string, Function>> paths() {
  std::vector<std::pair<std::string, Function>> all;
  all.emplace_back("best", attend_terms);
  for (const int64_t bytes : {16, 200, 3000, 1 << 24}) {
    all.emplace_back("tiles of " + std::to_string(bytes) + " bytes", [=](const AttendTerms& terms) {
      return attend_terms_by(terms, AttendPath::kTiles, bytes);
    });
  }
  return all;
}

/// The scores and weights whole, from the formulas.
Attended by_whole_matrix(const AttendTerms& terms) {
  at::Tensor s = at::matmul(terms.q, terms.k.transpose(2, 3)) * terms.scale;
  const bool on_keys = terms.grid.side == GridSide::kKeys;
  std::vector<at::Tensor> coordinates;
  const int64_t tokens = on_keys ? terms.k.size(2) : terms.q.size(2);
  for (size_t x = 0; x < terms.grid.extents.size(); ++x) {
    at::Tensor c = at::empty({tokens}, at::kLong);
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t index = terms.grid.begin + t;
      for (size_t later = terms.grid.extents.size() - 1; later > x; --later) {
        index /= terms.grid.extents[later];
      }
      c[t] = index % terms.grid.extents[x];
    }
    coordinates.push_back(c);
    s = s + terms.grid.tables[x].index_select(on_keys ? 3 : 2, c);
  }
  at::Tensor a;
  if (terms.grid.scale.defined()) {
    a = terms.grid.scale.unsqueeze(1).unsqueeze(on_keys ? 2 : 3);
    s = s * a;
  }
  if (terms.key_bias.defined()) {
    s = s + terms.key_bias.unsqueeze(2);
  }
  if (terms.key_mask.defined()) {
    s = s.masked_fill(terms.key_mask.logical_not().unsqueeze(1).unsqueeze(1),
                      -std::numeric_limits<double>::infinity());
  }
  const at::Tensor lse = s.logsumexp(3);
  at::Tensor w = (s - finite(lse).unsqueeze(3)).exp();
  w = a.defined() && on_keys ? w * a : w;
  Attended result{at::matmul(w, terms.v), lse, {}};
  for (size_t x = 0; x < coordinates.size() && on_keys; ++x) {
    std::vector<int64_t> sizes = w.sizes().vec();
    sizes[3] = terms.grid.extents[x];
    result.sums.push_back(at::zeros(sizes, w.options()).index_add(3, coordinates[x], w));
  }
  return result;
}

double difference(const at::Tensor& x, const at::Tensor& y) {
  return (finite(x) - finite(y)).abs().max().item<double>() +
         (x.isinf() != y.isinf()).any().item<bool>();
}

class AttendTermsTest : public testing::TestWithParam<Case> {};

TEST_P(AttendTermsTest, EveryPathGivesTheFormulas) {
  const at::NoGradGuard no_grad;
  const AttendTerms terms = make_terms(GetParam());
  const Attended expected = by_whole_matrix(terms);
  for (const auto& [name, function] : paths()) {
    const Attended got = function(terms);
    ASSERT_EQ(got.out.sizes(), expected.out.sizes()) << name;
    EXPECT_LT(difference(got.out, expected.out), 1e-12) << name;
    EXPECT_LT(difference(got.lse, expected.lse), 1e-12) << name;
    ASSERT_EQ(got.sums.size(), expected.sums.size()) << name;
    for (size_t x = 0; x < got.sums.size(); ++x) {
      EXPECT_LT(difference(got.sums[x], expected.sums[x]), 1e-12) << name << " axis " << x;
    }
  }
}

TEST_P(AttendTermsTest, GradientsOfEveryPathEqualFiniteDifferences) {
  AttendTerms terms = make_terms(GetParam());
  const Attended cotangent = random_like(attend_terms(terms));
  for (auto& [input_name, input] : inputs_of(terms)) {
    const at::Tensor original = *input;
    const at::Tensor direction = at::randn(original.sizes(), original.options());
    double moved[2];
    for (const int side : {0, 1}) {
      const at::NoGradGuard no_grad;
      *input = original + direction * (side == 0 ? -1e-5 : 1e-5);
      moved[side] = value_of(by_whole_matrix(terms), cotangent).item<double>();
    }
    const double numeric = (moved[1] - moved[0]) / 2e-5;
    for (const auto& [name, function] : paths()) {
      *input = original.clone().requires_grad_(true);  // alone: the others get no gradient
      const at::Tensor leaf = *input;
      value_of(function(terms), cotangent).backward();
      ASSERT_TRUE(leaf.grad().defined()) << name << " " << input_name;
      EXPECT_NEAR((leaf.grad() * direction).sum().item<double>(), numeric,
                  1e-7 * (1 + std::abs(numeric)))
          << name << " " << input_name;
    }
    *input = original;
  }
}

TEST_P(AttendTermsTest, PathsAgreeOnEveryGradientAtOnce) {
  const AttendTerms terms = make_terms(GetParam());
  const Attended cotangent = random_like(attend_terms(terms));
  std::vector<at::Tensor> expected;
  for (const auto& [name, function] : paths()) {
    AttendTerms leaves = terms;
    for (auto& [input_name, input] : inputs_of(leaves)) {
      *input = input->clone().requires_grad_(true);
    }
    value_of(function(leaves), cotangent).backward();
    std::vector<at::Tensor> grads;
    for (auto& [input_name, input] : inputs_of(leaves)) {
      grads.push_back(input->grad());
      if (!expected.empty()) {
        EXPECT_LT(difference(grads.back(), expected[grads.size() - 1]), 1e-11)
            << name << " " << input_name;
      }
    }
    expected = expected.empty() ? grads : expected;
  }
}

/// float32 runs the kernels: against the same numbers in float64.
TEST_P(AttendTermsTest, SinglePrecisionIsCloseToDouble) {
  const AttendTerms terms = make_terms(GetParam());
  const Attended cotangent = random_like(attend_terms(terms));
  std::vector<at::Tensor> expected;
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    AttendTerms leaves = terms;
    for (auto& [input_name, input] : inputs_of(leaves)) {
      *input = input->to(type).clone().requires_grad_(true);
    }
    const Attended result = attend_terms(leaves);
    EXPECT_EQ(result.out.scalar_type(), type);
    value_of(result, cotangent).backward();
    size_t i = 0;
    for (auto& [input_name, input] : inputs_of(leaves)) {
      if (type == at::kDouble) {
        expected.push_back(input->grad());
      } else {
        EXPECT_LT(difference(input->grad().to(at::kDouble), expected[i]), 2e-5) << input_name;
      }
      ++i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttendTermsTest,
    testing::Values(
        Case{.name = "dense"},
        Case{.name = "batches and heads", .batch = 2, .heads = 3, .queries = 5, .keys = 9},
        Case{.name = "shared extents", .batch = 2, .heads = 3, .bias = true, .shared = true},
        Case{.name = "wide values", .qk_dim = 2, .v_dim = 11},
        Case{.name = "narrow values", .qk_dim = 9, .v_dim = 1},
        Case{.name = "one query", .queries = 1, .keys = 7},
        Case{.name = "one key", .queries = 6, .keys = 1},
        Case{.name = "masks", .batch = 2, .heads = 2, .mask = Mask::kSome, .bias = true},
        Case{.name = "no valid key", .batch = 2, .mask = Mask::kOneBatchEmpty, .bias = true},
        Case{.name = "scaled keys", .batch = 2, .side = GridSide::kKeys, .token_scale = true},
        Case{.name = "scaled queries", .batch = 2, .side = GridSide::kQueries, .token_scale = true},
        Case{.name = "keys on a line",
             .heads = 2,
             .side = GridSide::kKeys,
             .extents = {9},
             .begin = 2,
             .token_scale = true},
        Case{.name = "keys on a plane",
             .batch = 2,
             .keys = 17,
             .mask = Mask::kOneBatchEmpty,
             .bias = true,
             .side = GridSide::kKeys,
             .extents = {5, 4},
             .begin = 3,
             .token_scale = true},
        Case{.name = "keys in a box",
             .batch = 2,
             .heads = 2,
             .keys = 30,
             .side = GridSide::kKeys,
             .extents = {3, 4, 3},
             .begin = 2,
             .token_scale = true,
             .shared = true},
        Case{.name = "keys on a plane, no scale",
             .keys = 12,
             .side = GridSide::kKeys,
             .extents = {3, 4}},
        Case{.name = "queries on a line",
             .queries = 6,
             .side = GridSide::kQueries,
             .extents = {8},
             .begin = 1,
             .token_scale = true},
        Case{.name = "queries on a plane",
             .batch = 2,
             .queries = 17,
             .mask = Mask::kSome,
             .bias = true,
             .side = GridSide::kQueries,
             .extents = {4, 5},
             .begin = 2,
             .token_scale = true},
        Case{.name = "queries in a box",
             .batch = 2,
             .heads = 2,
             .queries = 29,
             .side = GridSide::kQueries,
             .extents = {3, 3, 4},
             .begin = 5,
             .token_scale = true,
             .shared = true}));

TEST(AttendTerms, HalfWidthsRunInTilesWithStatisticsInSinglePrecision) {
  const at::NoGradGuard no_grad;
  AttendTerms terms = make_terms(
      {.name = "", .keys = 12, .side = GridSide::kKeys, .extents = {3, 4}, .token_scale = true});
  const Attended expected = attend_terms(terms);
  for (at::Tensor* x : {&terms.q, &terms.k, &terms.v}) {
    *x = x->to(at::kBFloat16);
  }
  const Attended got = attend_terms(terms);
  EXPECT_EQ(got.out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(got.lse.scalar_type(), at::kFloat);
  EXPECT_LT(difference(got.out.to(at::kDouble), expected.out), 0.05);
}

TEST(AttendTerms, OutputsHoldHeadsSideBySide) {
  const at::NoGradGuard no_grad;
  const AttendTerms terms = make_terms({.name = "", .batch = 2, .heads = 3});
  for (const auto& [name, function] : paths()) {
    EXPECT_TRUE(function(terms).out.transpose(1, 2).is_contiguous()) << name;
  }
}

TEST(AttendTerms, RefusesSecondDerivatives) {
  AttendTerms terms = make_terms({.name = ""});
  terms.q.requires_grad_(true);
  const at::Tensor out = attend_terms(terms).out.sum();
  EXPECT_ANY_THROW(out.backward({}, /*retain_graph=*/true, /*create_graph=*/true));
}

TEST(AttendTerms, NamesBothShapesWhenTheyDoNotFit) {
  const auto message = [](const AttendTerms& terms) -> std::string {
    try {
      attend_terms(terms);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kShape);
      return error.what();
    }
    return "accepted";
  };
  const Case plane{.name = "", .keys = 6, .side = GridSide::kKeys, .extents = {2, 3}};
  AttendTerms terms = make_terms(plane);
  terms.k = at::ones({1, 1, 6, 4});
  EXPECT_NE(message(terms).find("[1, 1, 6, 4]"), std::string::npos) << message(terms);
  terms = make_terms(plane);
  terms.grid.tables[1] = at::ones({1, 1, 4, 7});
  EXPECT_NE(message(terms).find("[1, 1, 4, 7]"), std::string::npos) << message(terms);
  EXPECT_NE(message(terms).find("[1, 1, 4, 3]"), std::string::npos) << message(terms);
  terms = make_terms(plane);
  terms.grid.begin = 1;
  EXPECT_NE(message(terms).find("do not lie on a grid of [2, 3]"), std::string::npos)
      << message(terms);
  terms = make_terms(plane);
  terms.key_mask = at::ones({1, 5}, at::kBool);
  EXPECT_NE(message(terms).find("[1, 5]"), std::string::npos) << message(terms);
}

}  // namespace
}  // namespace perceiver::nn
