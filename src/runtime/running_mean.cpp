#include "runtime/running_mean.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/workspace.h"

namespace perceiver::runtime {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
/// A part may weigh e^10 times the reference before the row is rescaled: far from overflow.
constexpr float kSlack = 10.0F;

void scale(float* row, int64_t width, float factor) {
  std::transform(row, row + width, row, [factor](float x) { return x * factor; });
}

}  // namespace

RunningMean::RunningMean(int64_t rows, int64_t width, Workspace& workspace)
    : sums_{workspace.take(rows * width), rows, width, width},
      lse_(workspace.take(rows)),
      weight_(reinterpret_cast<double*>(
          workspace.take_bytes(rows * static_cast<int64_t>(sizeof(double))))) {
  std::fill_n(sums_.data, rows * width, 0.0F);
  std::fill_n(lse_, rows, kMinusInfinity);
  std::fill_n(weight_, rows, 0.0);
}

void RunningMean::add(ConstMatrix means, const float* lse, const ColumnPiece* pieces,
                      int64_t num_pieces) {
  for (int64_t r = 0; r < sums_.rows; ++r) {
    if (lse[r] == kMinusInfinity) {
      continue;
    }
    float* row = sums_.row(r);
    if (lse[r] > lse_[r] + kSlack) {
      const float factor = std::exp(lse_[r] - lse[r]);  // 0 before the first part
      scale(row, sums_.columns, factor);
      weight_[r] *= static_cast<double>(factor);
      lse_[r] = lse[r];
    }
    const float weight = std::exp(lse[r] - lse_[r]);
    weight_[r] += static_cast<double>(weight);
    for (int64_t p = 0; p < num_pieces; ++p) {
      const float* from = means.row(r) + pieces[p].from;
      float* to = row + pieces[p].to;
      for (int64_t c = 0; c < pieces[p].width; ++c) {
        to[c] += weight * from[c];
      }
    }
  }
}

Matrix RunningMean::finish() {
  for (int64_t r = 0; r < sums_.rows; ++r) {
    if (weight_[r] == 0) {
      continue;
    }
    scale(sums_.row(r), sums_.columns, static_cast<float>(1 / weight_[r]));
    lse_[r] += static_cast<float>(std::log(weight_[r]));
  }
  return sums_;
}

}  // namespace perceiver::runtime
