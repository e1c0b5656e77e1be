// The pieces of the kernels by themselves, with the four lanes every CPU has.
namespace perceiver::kernels {
namespace {
constexpr int kLanes = 4;
}
}  // namespace perceiver::kernels

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/tile-inl.h"
#include "support/normal_floats.h"

namespace perceiver::kernels {
namespace {

/// Largest error over [from, to] in units of the last place.
template <typename F, typename G>
double worst_ulp(float from, float to, float step, F function, G expected_of) {
  double worst = 0;
  for (float x = from; x <= to; x += step) {
    const double expected = expected_of(static_cast<double>(x));
    int exponent = 0;
    std::frexp(expected, &exponent);
    const double error = std::abs(static_cast<double>(function(broadcast(x))[1]) - expected);
    worst = std::max(worst, error / std::ldexp(1.0, exponent - 24));
  }
  return worst;
}

TEST(Exponentials, AreWithinTwoUlp) {
  const auto exp2_vector = [](V x) { return exp2_of(x); };
  const auto exp_vector = [](V x) { return exp_of(x); };
  const auto exp2_double = [](double x) { return std::exp2(x); };
  const auto exp_double = [](double x) { return std::exp(x); };
  EXPECT_LE(worst_ulp(-126, 127, 0.0037f, exp2_vector, exp2_double), 2.2);
  EXPECT_LE(worst_ulp(-1, 1, 0.00001f, exp2_vector, exp2_double), 2.2);
  EXPECT_LE(worst_ulp(-87.3f, 88, 0.0021f, exp_vector, exp_double), 2);
}

TEST(Exponentials, AreZeroFarBelowAndNeverNanButForNan) {
  for (const float x : {-128.0f, -1e4f, -1e30f, -std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(exp2_of(broadcast(x))[0], 0) << x;
    EXPECT_EQ(exp_of(broadcast(x))[0], 0) << x;
  }
  EXPECT_TRUE(std::isnan(exp2_of(broadcast(std::nanf("")))[2]));
  EXPECT_TRUE(std::isnan(exp_of(broadcast(std::nanf("")))[2]));
  EXPECT_EQ(exp2_of(V{})[3], 1);
  EXPECT_EQ(exp_of(V{})[3], 1);
}

struct Size {
  int64_t rows, n, k;
};
constexpr Size kSizes[] = {{1, 1, 1},    {5, 9, 3},  {4, 8, 4},    {13, 40, 65}, {7, 33, 8},
                           {12, 31, 17}, {6, 12, 0}, {48, 15, 70}, {11, 20, 2},  {25, 256, 33}};

/// C after two products, the second added, for A by rows and by columns.
template <Left kLeft>
void expect_product(const Size& size, const std::vector<float>& a, int64_t lda,
                    const std::vector<float>& packed, const std::vector<float>& b) {
  const int64_t ldc = round_up(size.n, kLanes) + 1;
  std::vector<float> c(static_cast<size_t>(size.rows * ldc), -7.0f);
  Product product{size.rows, size.n, size.k, a.data(), lda, packed.data(), c.data(), ldc, false};
  multiply<kLeft>(product);
  product.accumulate = true;
  multiply<kLeft>(product);
  for (int64_t r = 0; r < size.rows; ++r) {
    for (int64_t j = 0; j < size.n; ++j) {
      double expected = 0;
      for (int64_t p = 0; p < size.k; ++p) {
        const int64_t at = kLeft == Left::kRows ? r * lda + p : p * lda + r;
        expected += 2.0 * static_cast<double>(a[static_cast<size_t>(at)]) *
                    static_cast<double>(b[static_cast<size_t>(p * size.n + j)]);
      }
      ASSERT_NEAR(static_cast<double>(c[static_cast<size_t>(r * ldc + j)]), expected, 1e-4)
          << size.rows << " " << size.n << " " << size.k;
    }
    EXPECT_EQ(c[static_cast<size_t>(r * ldc + ldc - 1)], -7) << "beyond the padding";
  }
}

TEST(Products, AgreeForEveryWayToPack) {
  for (const Size& size : kSizes) {
    const std::vector<float> a = normal_floats(size.rows * size.k + 1, 3);
    const std::vector<float> b = normal_floats(size.k * size.n + 1, 3);
    std::vector<float> transposed(b.size()), zeros(static_cast<size_t>(size.k + 4));
    for (int64_t p = 0; p < size.k; ++p) {
      for (int64_t j = 0; j < size.n; ++j) {
        transposed[static_cast<size_t>(j * size.k + p)] = b[static_cast<size_t>(p * size.n + j)];
      }
    }
    const size_t packed_floats = static_cast<size_t>(packed_size(size.k, size.n));
    std::vector<float> rows(packed_floats + 1, 9.0f), columns = rows;
    pack_rows(b.data(), size.n, size.k, size.n, nullptr, rows.data());
    pack_transposed(transposed.data(), size.k, size.n, size.k, nullptr, zeros.data(),
                    columns.data());
    EXPECT_EQ(rows, columns);
    EXPECT_EQ(rows.back(), 9) << "beyond the packed panels";
    expect_product<Left::kRows>(size, a, size.k, rows, b);
    expect_product<Left::kColumns>(size, a, size.rows, rows, b);
  }
}

TEST(Packing, LeavesOutWhatIsNotKept) {
  const std::vector<float> x(6 * 5, std::numeric_limits<float>::quiet_NaN()), zeros(16);
  const std::vector<uint8_t> keep(6, 0);
  std::vector<float> packed(static_cast<size_t>(packed_size(5, 8)), 1.0f);
  pack_transposed(x.data(), 5, 6, 5, keep.data(), zeros.data(), packed.data());
  EXPECT_EQ(packed, std::vector<float>(packed.size(), 0.0f));
  packed.assign(static_cast<size_t>(packed_size(6, 5)), 1.0f);
  pack_rows(x.data(), 5, 6, 5, keep.data(), packed.data());
  EXPECT_EQ(packed, std::vector<float>(packed.size(), 0.0f));
}

TEST(Vectors, ReduceAndTails) {
  const float x[] = {3, -1, 7, 2};
  EXPECT_EQ(sum_of(load(x)), 11);
  EXPECT_EQ(max_of(load(x)), 7);
  EXPECT_EQ(load_first(x, 2)[1], -1);
  EXPECT_EQ(load_first(x, 2)[2], 0);
  float y[] = {5, 5, 5, 5};
  store_first(y, load(x), 3);
  EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{3, -1, 7, 5}));
}

}  // namespace
}  // namespace perceiver::kernels
