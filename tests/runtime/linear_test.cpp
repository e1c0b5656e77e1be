#include "runtime/linear.h"

#include <cmath>

#include <gtest/gtest.h>

#include "perceiver/base/array.h"
#include "perceiver/base/error.h"
#include "runtime/weights.h"
#include "support/normal_floats.h"

// Against plain loops in double.

namespace perceiver::runtime {
namespace {

Affine random_affine(int64_t out, int64_t in, uint32_t seed, bool has_bias = true) {
  Affine affine{out, in, normal_floats(out * in, seed), {}};
  if (has_bias) {
    affine.bias = normal_floats(out, seed + 1);
  }
  return affine;
}

double at(const std::vector<float>& values, int64_t i) {
  return static_cast<double>(values[static_cast<size_t>(i)]);
}

double activate(double x, Activation kind) {
  switch (kind) {
    case Activation::kGeluErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

/// y = epilogue(x W^T + b), rows of x and y `pad` elements longer than needed.
double largest_error(const Affine& affine, const Linear& linear, int64_t rows, int64_t pad,
                     const Epilogue& epilogue) {
  const int64_t x_stride = affine.in + pad, y_stride = affine.out + pad;
  const std::vector<float> x = normal_floats(rows * x_stride, 5),
                           before = normal_floats(rows * y_stride, 6);
  std::vector<float> y = before;
  linear.apply({x.data(), rows, affine.in, x_stride}, {y.data(), rows, affine.out, y_stride},
               epilogue);
  double worst = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t o = 0; o < affine.out; ++o) {
      double sum = affine.bias.empty() ? 0 : at(affine.bias, o);
      for (int64_t c = 0; c < affine.in; ++c) {
        sum += at(x, i * x_stride + c) * at(affine.weight, o * affine.in + c);
      }
      sum = epilogue.activation ? activate(sum, *epilogue.activation) : sum;
      sum += epilogue.accumulate ? at(before, i * y_stride + o) : 0;
      worst = std::max(worst, std::abs(sum - at(y, i * y_stride + o)));
    }
    for (int64_t c = affine.out; c < y_stride; ++c) {
      EXPECT_EQ(at(y, i * y_stride + c), at(before, i * y_stride + c)) << "wrote beside the row";
    }
  }
  return worst;
}

TEST(Linear, EveryShapeStrideAndEpilogue) {
  const int64_t shapes[][2] = {{1, 1},   {1, 40},   {40, 1}, {3, 5},
                               {64, 48}, {129, 77}, {56, 64}};  // out, in
  for (const auto& [out, in] : shapes) {
    for (const bool has_bias : {true, false}) {
      const Affine affine = random_affine(out, in, 1, has_bias);
      const Linear linear(affine, Precision::kF32);
      for (const int64_t rows : {1, 2, 7, 33, 600}) {
        for (const int64_t pad : {0, 3, 16}) {
          for (const bool accumulate : {false, true}) {
            SCOPED_TRACE(testing::Message() << rows << "x" << in << "x" << out << " pad " << pad
                                            << " accumulate " << accumulate);
            const double bar = 2e-6 * std::sqrt(static_cast<double>(in)) * 4;
            EXPECT_LT(largest_error(affine, linear, rows, pad, {{}, accumulate}), bar);
            EXPECT_LT(largest_error(affine, linear, rows, pad, {Activation::kGeluErf, accumulate}),
                      bar);
          }
        }
      }
      EXPECT_TRUE(linear.ran_fast()) << in << " to " << out;
    }
  }
}

TEST(Linear, WideSumsAreAsExactAsNarrowOnes) {
  // relative to the square root of the width: constant where sums are made in blocks
  const auto error = [](int64_t in) {
    const Affine affine = random_affine(64, in, 3);
    const Linear linear(affine, Precision::kF32);
    return largest_error(affine, linear, 64, 0, {}) / std::sqrt(static_cast<double>(in));
  };
  EXPECT_LT(error(4096), 1.6 * error(512));
}

TEST(Linear, WideMapsWithEveryEpilogue) {
  const Affine affine = random_affine(72, 1300, 7);
  const Linear linear(affine, Precision::kF32);
  for (const int64_t pad : {0, 3}) {
    for (const bool accumulate : {false, true}) {
      EXPECT_LT(largest_error(affine, linear, 9, pad, {{}, accumulate}), 2e-4);
      EXPECT_LT(largest_error(affine, linear, 9, pad, {Activation::kGeluErf, accumulate}), 2e-4);
    }
  }
}

TEST(Linear, SevenProductsAreTheSameMap) {
  const Affine affine = random_affine(1088, 1024, 7);
  const Linear linear(affine, Precision::kF32, 0, ProductOrder::kSeven);
  ASSERT_EQ(linear.order(), ProductOrder::kSeven);
  for (const int64_t rows : {3, 65}) {
    for (const bool accumulate : {false, true}) {
      EXPECT_LT(largest_error(affine, linear, rows, 3, {{}, accumulate}), 3e-4);
      EXPECT_LT(largest_error(affine, linear, rows, 0, {Activation::kGeluErf, accumulate}), 3e-4);
    }
  }
  EXPECT_EQ(Linear(affine, Precision::kF32).order(), ProductOrder::kPlain);
  // too narrow to gain, no whole panels, an output in other parts than halves
  EXPECT_EQ(Linear(random_affine(1024, 512, 1), Precision::kF32, 0, ProductOrder::kSeven).order(),
            ProductOrder::kPlain);
  EXPECT_EQ(Linear(random_affine(1056, 1024, 1), Precision::kF32, 0, ProductOrder::kSeven).order(),
            ProductOrder::kPlain);
  EXPECT_EQ(Linear(affine, Precision::kF32, 272, ProductOrder::kSeven).order(),
            ProductOrder::kPlain);
}

TEST(Linear, PartsAreReadAndWrittenWhereTheyLie) {
  const int64_t rows = 9, out = 72, out_part = 24;
  for (const int64_t in : {40, 1300}) {
    const Affine affine = random_affine(out, in, 7);
    const Linear linear(affine, Precision::kF32), parted(affine, Precision::kF32, out_part);
    const int64_t width = parted.in_part();
    const std::vector<float> x = normal_floats(rows * in, 5), before = normal_floats(rows * out, 6);
    Workspace workspace;
    const auto x_parts = workspace.dense_parts(rows, in, width);
    const auto y_parts = workspace.dense_parts(rows, out, out_part);
    for (const bool accumulate : {false, true}) {
      std::vector<float> y = before;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < in; ++c) {
          x_parts.part(c / width).row(i)[c % width] = x[static_cast<size_t>(i * in + c)];
        }
        for (int64_t c = 0; c < out; ++c) {
          y_parts.part(c / out_part).row(i)[c % out_part] = y[static_cast<size_t>(i * out + c)];
        }
      }
      const Epilogue epilogue{Activation::kGeluErf, accumulate};
      linear.apply({x.data(), rows, in, in}, {y.data(), rows, out, out}, epilogue);
      parted.apply(x_parts, y_parts, epilogue);
      for (int64_t i = 0; i < rows * out; ++i) {
        const int64_t c = i % out;
        EXPECT_NEAR(y_parts.part(c / out_part).row(i / out)[c % out_part], at(y, i), 1e-4);
      }
    }
  }
  {
    const Affine affine = random_affine(1024, 1024, 7);
    const Linear whole(affine, Precision::kF32, 0, ProductOrder::kSeven);
    const Linear parted(affine, Precision::kF32, 512, ProductOrder::kSeven);
    const std::vector<float> x = normal_floats(rows * 1024, 5);
    Workspace workspace;
    const auto x_parts = workspace.parts(rows, 1024, 512),
               y_parts = workspace.parts(rows, 1024, 512);
    const Matrix y = workspace.matrix(rows, 1024);
    for (int64_t i = 0; i < rows * 1024; ++i) {
      x_parts.part(i % 1024 / 512).row(i / 1024)[i % 512] = x[static_cast<size_t>(i)];
    }
    whole.apply({x.data(), rows, 1024, 1024}, y);
    parted.apply(x_parts, y_parts);
    for (int64_t i = 0; i < rows * 1024; ++i) {
      EXPECT_EQ(y_parts.part(i % 1024 / 512).row(i / 1024)[i % 512], y.row(i / 1024)[i % 1024]);
    }
  }
  Workspace workspace;
  const Linear linear(random_affine(out, 40, 7), Precision::kF32);
  const auto wrong = workspace.dense_parts(rows, 40, 8);
  EXPECT_THROW(linear.apply(wrong, side_by_side(workspace.dense(rows, out), out)), Error);
}

TEST(Linear, ActivationsAreGoodToTheLastBits) {
  // one input, weight 1: the activation alone
  const Linear linear({1, 1, {1.0F}, {}}, Precision::kF32);
  const int64_t count = 20001;
  std::vector<float> x(count), y(count);
  for (int64_t i = 0; i < count; ++i) {
    x[static_cast<size_t>(i)] = static_cast<float>(i - count / 2) * 1e-3F;
  }
  for (const Activation kind :
       {Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu, Activation::kSilu}) {
    linear.apply({x.data(), count, 1, 1}, {y.data(), count, 1, 1}, {kind, false});
    double worst = 0;
    for (int64_t i = 0; i < count; ++i) {
      worst = std::max(
          worst, std::abs(at(y, i) - activate(at(x, i), kind)) / std::max(1.0, std::abs(at(x, i))));
    }
    EXPECT_LT(worst, 3e-7) << static_cast<int>(kind);
  }
}

TEST(Linear, TheSameCallGivesTheSameBytesWhateverCameBetween) {
  const Affine affine = random_affine(96, 80, 3);
  const Linear linear(affine, Precision::kF32);
  const std::vector<float> x = normal_floats(50 * 80, 9);
  std::vector<float> first(50 * 96), second(50 * 96);
  linear.apply({x.data(), 50, 80, 80}, {first.data(), 50, 96, 96});
  for (int64_t rows = 1; rows < 50; ++rows) {  // more row counts than are kept
    std::vector<float> other(static_cast<size_t>(rows * 96));
    linear.apply({x.data(), rows, 80, 80}, {other.data(), rows, 96, 96});
  }
  linear.apply({x.data(), 50, 80, 80}, {second.data(), 50, 96, 96});
  EXPECT_EQ(first, second);
}

TEST(Linear, BF16RoundsTheWeights) {
  Affine affine = random_affine(24, 32, 4);
  const Linear rounded(affine, Precision::kBF16);
  for (float& value : affine.weight) {
    value = bfloat16_to_float(float_to_bfloat16(value));
  }
  // a CPU that multiplies bfloat16 rounds the input too
  for (const int64_t pad : {0, 3}) {
    for (const bool accumulate : {false, true}) {
      EXPECT_LT(largest_error(affine, rounded, 20, pad, {{}, accumulate}), 0.1);
    }
  }
  EXPECT_TRUE(rounded.ran_fast());
  const Linear exact(affine, Precision::kF32);
  EXPECT_LT(largest_error(affine, exact, 20, 0, {}), 1e-4);
}

TEST(Linear, RefusesRowsOfAnotherWidth) {
  const Linear linear(random_affine(4, 3, 1), Precision::kF32);
  std::vector<float> x(100), y(100);
  EXPECT_THROW(linear.apply({x.data(), 2, 4, 4}, {y.data(), 2, 4, 4}), Error);
  EXPECT_THROW(linear.apply({x.data(), 2, 3, 3}, {y.data(), 3, 4, 4}), Error);
  linear.apply({x.data(), 0, 3, 3}, {y.data(), 0, 4, 4});
}

std::vector<double> mapped(const Affine& affine, const std::vector<double>& x) {
  std::vector<double> y;
  for (int64_t o = 0; o < affine.out; ++o) {
    double sum = affine.bias.empty() ? 0 : at(affine.bias, o);
    for (int64_t i = 0; i < affine.in; ++i) {
      sum += at(affine.weight, o * affine.in + i) * x[static_cast<size_t>(i)];
    }
    y.push_back(sum);
  }
  return y;
}

TEST(Affine, FoldComposeAndStackAreTheSameMaps) {
  const std::vector<double> x{0.3, -1.2, 2.0, 0.7, -0.1};
  const Affine inner = random_affine(4, 5, 11), outer = random_affine(3, 4, 12);
  const std::vector<double> composed = mapped(compose(outer, inner), x);
  const std::vector<double> in_turn = mapped(outer, mapped(inner, x));
  for (size_t i = 0; i < composed.size(); ++i) {
    EXPECT_NEAR(composed[i], in_turn[i], 1e-6);
  }

  Affine folded = random_affine(4, 5, 13, /*has_bias=*/false);
  const Affine plain = folded;
  const std::vector<float> gamma = normal_floats(5, 14), beta = normal_floats(5, 15);
  folded.fold_norm(gamma.data(), beta.data());
  std::vector<double> scaled;
  for (size_t i = 0; i < 5; ++i) {
    scaled.push_back(static_cast<double>(gamma[i]) * x[i] + static_cast<double>(beta[i]));
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(mapped(folded, x)[i], mapped(plain, scaled)[i], 1e-6);
  }

  const Affine both = stack({&inner, &plain});
  std::vector<double> expected = mapped(inner, x);
  for (const double value : mapped(plain, x)) {
    expected.push_back(value);
  }
  EXPECT_EQ(mapped(both, x), expected);
  EXPECT_THROW(compose(inner, inner), Error);
}

TEST(Products, OfRuntimeOperandsWithStrides) {
  const int64_t m = 9, n = 13, k = 21, pad = 2;
  const std::vector<float> a = normal_floats(m * (k + pad), 1), b = normal_floats(n * (k + pad), 2),
                           b_rows = normal_floats(k * (n + pad), 3),
                           before = normal_floats(m * (n + pad), 4);
  for (const bool accumulate : {false, true}) {
    std::vector<float> c = before, d = before;
    multiply_transposed({a.data(), m, k, k + pad}, {b.data(), n, k, k + pad},
                        {c.data(), m, n, n + pad}, accumulate);
    multiply({a.data(), m, k, k + pad}, {b_rows.data(), k, n, n + pad}, {d.data(), m, n, n + pad},
             accumulate);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double first = accumulate ? at(before, i * (n + pad) + j) : 0, second = first;
        for (int64_t s = 0; s < k; ++s) {
          first += at(a, i * (k + pad) + s) * at(b, j * (k + pad) + s);
          second += at(a, i * (k + pad) + s) * at(b_rows, s * (n + pad) + j);
        }
        EXPECT_NEAR(at(c, i * (n + pad) + j), first, 2e-5);
        EXPECT_NEAR(at(d, i * (n + pad) + j), second, 2e-5);
      }
      EXPECT_EQ(at(c, i * (n + pad) + n), at(before, i * (n + pad) + n));
    }
  }
}

TEST(Products, OfNothingAreZero) {
  std::vector<float> c{1, 2, 3, 4};
  multiply({nullptr, 2, 0, 0}, {nullptr, 0, 2, 2}, {c.data(), 2, 2, 2}, true);
  EXPECT_EQ(c, (std::vector<float>{1, 2, 3, 4}));
  multiply({nullptr, 2, 0, 0}, {nullptr, 0, 2, 2}, {c.data(), 2, 2, 2});
  EXPECT_EQ(c, (std::vector<float>{0, 0, 0, 0}));
}

}  // namespace
}  // namespace perceiver::runtime
