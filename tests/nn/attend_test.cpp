#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include "perceiver/base/error.h"
#include "perceiver/nn/attention.h"

namespace perceiver::nn {
namespace {

/// An independent statement of attention: loops, no softmax function, double.
at::Tensor attend_by_loops(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask, int64_t heads, MaskedRows rows) {
  const int64_t B = q.size(0), O = q.size(1), M = k.size(1);
  const int64_t dq = q.size(2) / heads, dv = v.size(2) / heads;
  at::Tensor out = at::zeros_like(v.narrow(1, 0, 1)).expand({B, O, v.size(2)}).contiguous();
  const auto qa = q.accessor<double, 3>(), ka = k.accessor<double, 3>(),
             va = v.accessor<double, 3>();
  auto oa = out.accessor<double, 3>();
  for (int64_t b = 0; b < B; ++b) {
    bool any = !mask.defined();
    for (int64_t m = 0; mask.defined() && m < M; ++m) {
      any = any || mask[b][m].item<bool>();
    }
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t o = 0; o < O; ++o) {
        std::vector<double> weight(static_cast<size_t>(M));
        double total = 0;
        for (int64_t m = 0; m < M; ++m) {
          double score = 0;
          for (int64_t c = 0; c < dq; ++c) {
            score += qa[b][o][h * dq + c] * ka[b][m][h * dq + c];
          }
          const bool valid = !mask.defined() || mask[b][m].item<bool>();
          const double w =
              !any ? (rows == MaskedRows::kMean ? 1.0 : 0.0)
                   : (valid ? std::exp(score / std::sqrt(static_cast<double>(dq))) : 0.0);
          weight[static_cast<size_t>(m)] = w;
          total += w;
        }
        for (int64_t c = 0; c < dv; ++c) {
          double sum = 0;
          for (int64_t m = 0; m < M; ++m) {
            sum += weight[static_cast<size_t>(m)] * va[b][m][h * dv + c];
          }
          oa[b][o][h * dv + c] = total > 0 ? sum / total : 0;
        }
      }
    }
  }
  return out;
}

struct Case {
  int64_t batch, heads, queries, keys, qk_head, v_head;
  bool masked;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "B " << c.batch << " H " << c.heads << " queries " << c.queries << " keys " << c.keys
       << " qk head " << c.qk_head << " v head " << c.v_head << (c.masked ? " masked" : "");
}

class AttendTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    const auto options = at::TensorOptions().dtype(at::kDouble);
    q = at::randn({c.batch, c.queries, c.heads * c.qk_head}, options);
    k = at::randn({c.batch, c.keys, c.heads * c.qk_head}, options);
    v = at::randn({c.batch, c.keys, c.heads * c.v_head}, options);
    if (c.masked) {
      mask = at::rand({c.batch, c.keys}) > 0.4;
      mask[0].fill_(false);  // a row without any valid key
    }
  }
  at::Tensor q, k, v, mask;
};

TEST_P(AttendTest, AgreesWithLoopsForEveryTileSizeAndMaskRule) {
  const at::NoGradGuard no_grad;
  for (const MaskedRows rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    const at::Tensor expected = attend_by_loops(q, k, v, mask, GetParam().heads, rows);
    for (const int64_t tile_bytes :
         {int64_t{8}, int64_t{64}, int64_t{200}, int64_t{4096}, int64_t{1} << 30}) {
      const at::Tensor got =
          attend(q, k, v, mask,
                 {.num_heads = GetParam().heads, .masked_rows = rows, .tile_bytes = tile_bytes});
      ASSERT_EQ(got.sizes(), expected.sizes());
      EXPECT_LT((got - expected).abs().max().item<double>(), 1e-12) << "tile_bytes " << tile_bytes;
    }
  }
}

TEST_P(AttendTest, TiledGradientsEqualTextbookGradients) {
  const at::Tensor cotangent = at::randn({q.size(0), q.size(1), v.size(2)}, q.options());
  std::vector<std::vector<at::Tensor>> grads;
  for (const int64_t tile_bytes :
       {int64_t{1} << 30, int64_t{64}}) {  // textbook autograd, then recomputed tiles
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& x : {q, k, v}) {
      leaves.push_back(x.clone().requires_grad_(true));
    }
    const at::Tensor out = attend(leaves[0], leaves[1], leaves[2], mask,
                                  {.num_heads = GetParam().heads,
                                   .masked_rows = MaskedRows::kZero,
                                   .tile_bytes = tile_bytes});
    (out * cotangent).sum().backward();
    grads.push_back({leaves[0].grad(), leaves[1].grad(), leaves[2].grad()});
  }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_LT((grads[0][i] - grads[1][i]).abs().max().item<double>(), 1e-12) << "qkv"[i];
  }
}

TEST_P(AttendTest, GradientsEqualFiniteDifferences) {
  const at::Tensor cotangent = at::randn({q.size(0), q.size(1), v.size(2)}, q.options());
  const AttendOptions options{
      .num_heads = GetParam().heads, .masked_rows = MaskedRows::kMean, .tile_bytes = 64};
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {q, k, v}) {
    leaves.push_back(x.clone().requires_grad_(true));
  }
  (attend(leaves[0], leaves[1], leaves[2], mask, options) * cotangent).sum().backward();
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < 3; ++i) {
    const at::Tensor direction = at::randn(leaves[i].sizes(), leaves[i].options());
    const auto value_at = [&](double step) {
      std::vector<at::Tensor> moved{q, k, v};
      moved[i] = moved[i] + direction * step;
      return (attend(moved[0], moved[1], moved[2], mask, options) * cotangent).sum().item<double>();
    };
    const double numeric = (value_at(1e-5) - value_at(-1e-5)) / 2e-5;
    const double analytic = (leaves[i].grad() * direction).sum().item<double>();
    EXPECT_NEAR(analytic, numeric, 1e-7 * (1 + std::abs(numeric))) << "qkv"[i];
  }
}

/// float32 runs the kernels, on heads as they lie.
TEST_P(AttendTest, SinglePrecisionAgreesWithDoubleForwardAndBackward) {
  const at::Tensor cotangent = at::randn({q.size(0), q.size(1), v.size(2)}, q.options());
  for (const MaskedRows rows : {MaskedRows::kZero, MaskedRows::kMean}) {
    std::vector<at::Tensor> results[2];
    for (const bool single : {false, true}) {
      const at::ScalarType type = single ? at::kFloat : at::kDouble;
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& x : {q, k, v}) {
        leaves.push_back(x.to(type).clone().requires_grad_(true));
      }
      const at::Tensor out = attend(leaves[0], leaves[1], leaves[2], mask,
                                    {.num_heads = GetParam().heads, .masked_rows = rows});
      EXPECT_EQ(out.scalar_type(), type);
      (out * cotangent.to(type)).sum().backward();
      results[single] = {out, leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
    }
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_LT((results[0][i] - results[1][i]).abs().max().item<double>(), 1e-5)
          << std::vector<std::string>{"out", "q", "k", "v"}[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttendTest,
    testing::Values(Case{1, 1, 1, 1, 1, 1, false},    // one query, one key
                    Case{2, 1, 5, 7, 3, 3, false},    // odd width, one head
                    Case{2, 2, 4, 9, 2, 5, true},     // v wider than q/k, a masked row
                    Case{1, 3, 17, 33, 4, 1, true},   // v narrower
                    Case{2, 8, 3, 40, 4, 20, false},  // the language model's ratio
                    Case{2, 1, 40, 3, 6, 2, true}));  // more queries than keys

TEST(Attend, StaysFiniteForHugeScores) {
  const at::NoGradGuard no_grad;
  const at::Tensor q = at::tensor({1e4, -1e4}).view({1, 2, 1}).to(at::kFloat);
  const at::Tensor k = at::tensor({1.0, -1.0, 0.5}).view({1, 3, 1}).to(at::kFloat);
  const at::Tensor v = at::tensor({1.0, 2.0, 3.0}).view({1, 3, 1}).to(at::kFloat);
  const at::Tensor out = attend(q, k, v, {}, {.tile_bytes = 4});
  EXPECT_EQ(out[0][0].item<float>(), 1.0F);  // all weight on the largest score
  EXPECT_EQ(out[0][1].item<float>(), 2.0F);
}

TEST(Attend, NamesBothShapesWhenTheyDoNotFit) {
  const at::Tensor q = at::ones({1, 2, 4}), k = at::ones({1, 3, 6}), v = at::ones({1, 3, 4});
  try {
    attend(q, k, v, {}, {});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShape);
    EXPECT_NE(std::string(error.what()).find("[1, 2, 4]"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("[1, 3, 6]"), std::string::npos) << error.what();
  }
}

TEST(Attend, AttentionMapRowsSumToOneAndReproduceAttend) {
  const at::NoGradGuard no_grad;
  const at::Tensor q = at::randn({2, 3, 4}, at::kDouble), k = at::randn({2, 5, 4}, at::kDouble);
  const at::Tensor v = at::randn({2, 5, 6}, at::kDouble);
  const AttendOptions options{.num_heads = 2};
  const at::Tensor map = attention_map(q, k, {}, options);
  ASSERT_EQ(map.sizes(), (at::IntArrayRef{2, 2, 3, 5}));
  EXPECT_LT((map.sum(-1) - 1).abs().max().item<double>(), 1e-14);
  const at::Tensor head = at::bmm(map.select(1, 1), v.narrow(2, 3, 3));
  EXPECT_LT((attend(q, k, v, {}, options).narrow(2, 3, 3) - head).abs().max().item<double>(),
            1e-14);
}

}  // namespace
}  // namespace perceiver::nn
