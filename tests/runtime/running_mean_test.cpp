#include "runtime/running_mean.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/workspace.h"

namespace perceiver::runtime::test {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Two rows of three columns; each part reaches the first column and one of the others.
struct Parts {
  struct Part {
    std::vector<float> lse;
    std::vector<float> means;  ///< [2, 2]
    int64_t column;            ///< where the second of them goes
  };
  std::vector<Part> parts;

  /// The same in double, by the definition.
  std::vector<double> wanted(size_t row) const {
    double total = 0;
    std::vector<double> sums(3, 0.0);
    for (const Part& part : parts) {
      const double weight = std::exp(static_cast<double>(part.lse[row]));
      total += weight;
      sums[0] += weight * static_cast<double>(part.means[2 * row]);
      sums[static_cast<size_t>(part.column)] +=
          weight * static_cast<double>(part.means[2 * row + 1]);
    }
    for (double& sum : sums) {
      sum = total == 0 ? 0 : sum / total;
    }
    sums.push_back(std::log(total));
    return sums;
  }
};

void expect_as_wanted(const Parts& parts) {
  Workspace workspace;
  RunningMean mean(2, 3, workspace);
  for (const Parts::Part& part : parts.parts) {
    const ColumnPiece pieces[] = {{0, 0, 1}, {1, part.column, 1}};
    mean.add({part.means.data(), 2, 2, 2}, part.lse.data(), pieces, 2);
  }
  const Matrix got = mean.finish();
  for (size_t row = 0; row < 2; ++row) {
    const std::vector<double> wanted = parts.wanted(row);
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(got.row(static_cast<int64_t>(row))[c], wanted[c],
                  1e-6 * std::max(1.0, std::abs(wanted[c])))
          << row << ", " << c;
    }
    if (wanted[3] == -std::numeric_limits<double>::infinity()) {
      EXPECT_EQ(mean.lse()[row], kNothing);
    } else {
      EXPECT_NEAR(mean.lse()[row], wanted[3], 1e-6 * std::max(1.0, std::abs(wanted[3])));
    }
  }
}

TEST(RunningMean, WeighsPartsByTheirLogSumExps) {
  expect_as_wanted({{{{0.5F, -2}, {1, 2, 3, 4}, 1},
                     {{-1, 3}, {5, 6, 7, 8}, 2},
                     {{2, 2.5F}, {-9, 10, 11, 12}, 1}}});
}

TEST(RunningMean, APartMayOutweighAllBeforeOrNothing) {
  expect_as_wanted({{{{-300, 90}, {1e3F, 2, 3, 4}, 1},
                     {{-200, -90}, {5, 6, 7, 1e3F}, 2},
                     {{-195, 95}, {8, 9, 10, 11}, 2}}});
}

TEST(RunningMean, RowsWithoutATokenStayZero) {
  expect_as_wanted({{{{kNothing, kNothing}, {1, 2, 3, 4}, 1},
                     {{kNothing, -80}, {5, 6, 7, 8}, 2},
                     {{kNothing, kNothing}, {9, 9, 9, 9}, 1}}});
}

}  // namespace
}  // namespace perceiver::runtime::test
