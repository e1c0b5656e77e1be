#include "train/tasks/flow_errors.h"

#include <cmath>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {

void FlowErrors::add(const Array& estimate, const FlowPair& truth) {
  if (estimate.shape() != truth.flow.uv.shape()) {
    throw Error(ErrorCode::kShape, cat("estimated flow ", shape_string(estimate.shape()),
                                       " for a pair of ", shape_string(truth.flow.uv.shape())));
  }
  const float* got = estimate.data<float>();
  const float* wanted = truth.flow.uv.data<float>();
  Mean pair;
  for (int64_t i = 0; i < truth.flow.valid.numel(); ++i) {
    if (!truth.flow.valid.data<bool>()[i]) {
      continue;
    }
    const double u = wanted[2 * i], v = wanted[2 * i + 1];
    const double error =
        std::hypot(static_cast<double>(got[2 * i]) - u, static_cast<double>(got[2 * i + 1]) - v);
    const double length = std::hypot(u, v);
    all_.add(error);
    pair.add(error);
    zero_.add(length);
    outliers_.add(error > 3 && error > 0.05 * length ? 1 : 0);
    within_.add(error < 1 ? 1 : 0);
    by_length_[length < 10 ? 0 : length < 40 ? 1 : 2].add(error);
    if (truth.occluded.defined()) {
      (truth.occluded.data<bool>()[i] ? occluded_ : unoccluded_).add(error);
    }
  }
  if (pair.count > 0) {
    frames_.add(pair.sum / static_cast<double>(pair.count));
  }
}

Metrics FlowErrors::metrics() const {
  Metrics metrics;
  const auto report = [&](const char* name, const Mean& mean) {
    if (mean.count > 0) {
      metrics.emplace_back(name, mean.sum / static_cast<double>(mean.count));
    }
  };
  report("epe", all_);
  report("epe_frames", frames_);
  report("epe_unoccluded", unoccluded_);
  report("epe_occluded", occluded_);
  report("epe_s0_10", by_length_[0]);
  report("epe_s10_40", by_length_[1]);
  report("epe_s40", by_length_[2]);
  report("fl_all", outliers_);
  report("within_1px", within_);
  report("zero_epe", zero_);
  return metrics;
}

}  // namespace perceiver::train
