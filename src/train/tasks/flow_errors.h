#pragma once

#include <array>
#include <cstdint>

#include "perceiver/train/train.h"
#include "train/data/flow_pair.h"

namespace perceiver::train {

/// Errors of estimated flow as the benchmarks count them, gathered pair by pair. Means run over all
/// valid pixels of all pairs.
class FlowErrors {
 public:
  /// @param estimate  [H, W, 2] F32, pixels
  void add(const Array& estimate, const FlowPair& truth);

  /// epe              mean length of the error, pixels
  /// epe_frames       mean over pairs of each pair's epe (KITTI's way; pairs without a valid pixel
  ///                  are left out)
  /// epe_unoccluded, epe_occluded     where occlusion is told
  /// epe_s0_10, epe_s10_40, epe_s40   by the length of the true flow (MPI-Sintel)
  /// fl_all           share of pixels off by more than 3 pixels and 5 % of the true flow (KITTI)
  /// within_1px       share off by less than a pixel
  /// zero_epe         epe of answering "nothing moves"
  /// What no pixel falls under is left out.
  Metrics metrics() const;

 private:
  struct Mean {
    double sum = 0;
    int64_t count = 0;
    void add(double value) {
      sum += value;
      ++count;
    }
  };
  Mean all_, frames_, unoccluded_, occluded_, outliers_, within_, zero_;
  std::array<Mean, 3> by_length_;
};

}  // namespace perceiver::train
