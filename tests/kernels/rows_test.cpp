#include "perceiver/kernels/rows.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/every_set.h"
#include "kernels/kernel_table.h"
#include "kernels/rows_reference.h"
#include "kernels/wide_lanes.h"
#include "perceiver/kernels/dispatch.h"

namespace perceiver::kernels {
namespace {

constexpr double kEpsilon = 0x1p-24;  // one rounding of a float
constexpr float kPattern = -321.5f;

/// Rows with a gap of three floats behind each, which must stay as it is.
struct Matrix {
  int64_t rows, width, stride;
  std::vector<float> data;

  Matrix(int64_t num_rows, int64_t row_width)
      : rows(num_rows),
        width(row_width),
        stride(row_width + 3),
        data(static_cast<size_t>(num_rows * stride), kPattern) {}
  float& at(int64_t r, int64_t c) { return data[static_cast<size_t>(r * stride + c)]; }
  bool intact() {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = width; c < stride; ++c) {
        if (at(r, c) != kPattern) {
          return false;
        }
      }
    }
    return true;
  }
};

Matrix random_matrix(int64_t rows, int64_t width, float mean, float deviation) {
  Matrix matrix(rows, width);
  std::mt19937 random(7);
  std::normal_distribution<float> normal(mean, deviation);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      matrix.at(r, c) = normal(random);
    }
  }
  return matrix;
}

struct Shape {
  int64_t rows, width;
};
constexpr Shape kShapes[] = {{1, 1},  {3, 2},   {5, 7},    {4, 8},    {2, 17},   {3, 33},
                             {7, 64}, {2, 512}, {3, 1283}, {400, 65}, {90, 261}, {1, 4096}};

TEST(NormaliseRows, EverySetAgreesWithTheFormula) {
  with_every_set([] {
    for (const auto& [rows, width] : kShapes) {
      for (const float mean : {0.0f, 3.0f, 1000.0f}) {
        Matrix x = random_matrix(rows, width, mean, 2);
        Matrix expected(rows, width);
        normalise_rows_reference({0, rows}, width, x.data.data(), x.stride, 1e-5f,
                                 {expected.data.data(), expected.stride, width, 0});
        for (const int threads : {1, 2, 3, 8}) {
          Matrix actual(rows, width);
          normalise_rows(rows, width, x.data.data(), x.stride, 1e-5f, actual.data.data(),
                         actual.stride, threads);
          // x - mean loses digits where the mean is large; the deviation is about 2
          const double allowed = kEpsilon * (static_cast<double>(mean) + 32);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < width; ++c) {
              const double scale = width < 8 ? 400 : 1;  // few values: the deviation may be tiny
              ASSERT_NEAR(static_cast<double>(actual.at(r, c)),
                          static_cast<double>(expected.at(r, c)), allowed * scale)
                  << rows << " x " << width << " mean " << mean << " threads " << threads;
            }
          }
          EXPECT_TRUE(actual.intact());
        }
      }
    }
  });
}

TEST(NormaliseRows, InPlace) {
  with_every_set([] {
    Matrix x = random_matrix(9, 21, 1, 1), out(9, 21);
    normalise_rows(9, 21, x.data.data(), x.stride, 1e-5f, out.data.data(), out.stride, 2);
    normalise_rows(9, 21, x.data.data(), x.stride, 1e-5f, x.data.data(), x.stride, 2);
    EXPECT_EQ(x.data, out.data);
  });
}

TEST(NormaliseRows, InPartsAsInOnePiece) {
  with_every_set([] {
    for (const int64_t part : {8, 11, 21, 30}) {
      const int64_t rows = 9, width = 21, count = (width + part - 1) / part;
      const Matrix x = random_matrix(rows, width, 1, 1);
      Matrix whole(rows, width), parts(rows * count, part);
      normalise_rows(rows, width, x.data.data(), x.stride, 1e-5f, whole.data.data(), whole.stride,
                     2);
      normalise_rows(rows, width, x.data.data(), x.stride, 1e-5f,
                     {parts.data.data(), parts.stride, part, rows * parts.stride}, 2);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          EXPECT_NEAR(parts.at(c / part * rows + r, c % part), whole.at(r, c), 1e-6)
              << "row " << r << " column " << c << " in parts of " << part;
        }
      }
      EXPECT_TRUE(parts.intact());
    }
  });
}

TEST(NormaliseRows, NoRowsAndConstantRows) {
  with_every_set([] {
    normalise_rows(0, 5, nullptr, 5, 1e-5f, nullptr, 5, 2);
    std::vector<float> x(40, 7.25f), out(40, 1.0f);
    normalise_rows(2, 20, x.data(), 20, 1e-5f, out.data(), 20, 1);
    EXPECT_EQ(out, std::vector<float>(40, 0.0f));
  });
}

TEST(RowStatistics, EverySetAgreesWithTheFormula) {
  with_every_set([] {
    for (const auto& [rows, width] : kShapes) {
      Matrix x = random_matrix(rows, width, 100, 3);
      const size_t count = static_cast<size_t>(rows);
      std::vector<float> mean(count), expected_mean(count), deviation(count), expected(count);
      row_statistics_reference({0, rows}, width, x.data.data(), x.stride, 1e-5f,
                               expected_mean.data(), expected.data());
      row_statistics(rows, width, x.data.data(), x.stride, 1e-5f, mean.data(), deviation.data(), 3);
      for (size_t r = 0; r < count; ++r) {
        EXPECT_FLOAT_EQ(mean[r], expected_mean[r]) << rows << " x " << width;
        // relative: squares of about 3 beside a mean of 100 that is rounded once
        EXPECT_NEAR(static_cast<double>(deviation[r] / expected[r]), 1, width < 8 ? 1e-3 : 4e-6)
            << rows << " x " << width;
      }
      std::vector<float> mean_alone(count);
      row_statistics(rows, width, x.data.data(), x.stride, 1e-5f, mean_alone.data(), nullptr, 1);
      EXPECT_EQ(mean_alone, mean);
    }
  });
}

std::vector<float> interesting_values() {
  std::vector<float> values;
  for (float x = -15; x <= 15; x += 0.00371f) {
    values.push_back(x);
  }
  for (const float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e-6f, -1e-6f, 80.0f, -80.0f, 1e4f, -1e4f}) {
    values.push_back(x);
  }
  return values;
}

/// Largest error in units of eps * |value|, results below 1e-27 apart.
double worst_error(const std::vector<float>& inputs, const std::vector<float>& outputs,
                   Activation activation) {
  double worst = 0;
  for (size_t n = 0; n < inputs.size(); ++n) {
    const double expected = activation_reference(static_cast<double>(inputs[n]), activation);
    const double error = std::abs(expected - static_cast<double>(outputs[n]));
    worst = std::max(worst, error / (2 * kEpsilon * std::max(std::abs(expected), 1e-27)));
  }
  return worst;
}

TEST(ActivateRows, EverySetIsWithinAFewUlp) {
  with_every_set([] {
    const std::vector<float> inputs = interesting_values();
    const int64_t width = static_cast<int64_t>(inputs.size());
    for (const auto& [activation, ulp] :
         {std::pair{Activation::kGeluErf, 6.0}, std::pair{Activation::kRelu, 0.0},
          std::pair{Activation::kSilu, 4.0},
          // 2 w, the sigmoid's argument, is up to 70 with a rounding of its own
          std::pair{Activation::kGeluTanh, 200.0}}) {
      std::vector<float> outputs = inputs;
      activate_rows(1, width, outputs.data(), width, nullptr, activation, 1);
      EXPECT_LE(worst_error(inputs, outputs, activation), ulp)
          << "activation " << static_cast<int>(activation);
    }
  });
}

TEST(ActivateRows, TheTanhFormIsExactWhereItMatters) {
  with_every_set([] {
    std::vector<float> inputs;
    for (float x = -3; x < 15; x += 0.001f) {
      inputs.push_back(x);
    }
    std::vector<float> outputs = inputs;
    const int64_t width = static_cast<int64_t>(inputs.size());
    activate_rows(1, width, outputs.data(), width, nullptr, Activation::kGeluTanh, 1);
    EXPECT_LE(worst_error(inputs, outputs, Activation::kGeluTanh), 16);
  });
}

TEST(ActivateRows, AddsTheBiasAndLeavesTheGaps) {
  with_every_set([] {
    for (const auto& [rows, width] : kShapes) {
      const Matrix x = random_matrix(rows, width, 0, 2);
      const Matrix bias = random_matrix(1, width, 1, 1);
      Matrix expected = x;
      activate_rows_reference({0, rows}, width, expected.data.data(), x.stride, bias.data.data(),
                              Activation::kGeluErf);
      for (const int threads : {1, 2, 8}) {
        Matrix actual = x;
        activate_rows(rows, width, actual.data.data(), x.stride, bias.data.data(),
                      Activation::kGeluErf, threads);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < width; ++c) {
            // x + bias is rounded before the activation, whose slope is at most 1.13
            ASSERT_NEAR(static_cast<double>(actual.at(r, c)),
                        static_cast<double>(expected.at(r, c)), kEpsilon * 32)
                << rows << " x " << width;
          }
        }
        EXPECT_TRUE(actual.intact());
      }
    }
  });
}

TEST(ActivateRows, NotANumberStays) {
  with_every_set([] {
    for (const Activation activation :
         {Activation::kGeluErf, Activation::kGeluTanh, Activation::kSilu}) {
      std::vector<float> x(9, std::numeric_limits<float>::quiet_NaN());
      activate_rows(1, 9, x.data(), 9, nullptr, activation, 1);
      EXPECT_TRUE(std::isnan(x[0]) && std::isnan(x[8])) << static_cast<int>(activation);
    }
  });
}

TEST(RowKernels, SixteenLanes) {
  const KernelTable* kernels = wide_lanes_kernels();
  if (kernels == nullptr) {
    GTEST_SKIP() << "needs AVX2";
  }
  const std::vector<float> inputs = interesting_values();
  std::vector<float> outputs = inputs;
  const int64_t width = static_cast<int64_t>(inputs.size());
  kernels->activate_rows({0, 1}, width, outputs.data(), width, nullptr, Activation::kGeluErf);
  EXPECT_LE(worst_error(inputs, outputs, Activation::kGeluErf), 6);
  for (const auto& [rows, columns] : kShapes) {
    Matrix x = random_matrix(rows, columns, 3, 2);
    Matrix expected(rows, columns), actual(rows, columns);
    normalise_rows_reference({0, rows}, columns, x.data.data(), x.stride, 1e-5f,
                             {expected.data.data(), x.stride, columns, 0});
    kernels->normalise_rows({0, rows}, columns, x.data.data(), x.stride, 1e-5f,
                            {actual.data.data(), x.stride, columns, 0});
    for (size_t n = 0; n < expected.data.size(); ++n) {
      ASSERT_NEAR(static_cast<double>(actual.data[n]), static_cast<double>(expected.data[n]),
                  columns < 8 ? 1e-3 : 4e-6);
    }
  }
}

}  // namespace
}  // namespace perceiver::kernels
