#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/tokens/engine.h"

namespace perceiver::tasks {

/// What a run cost.
struct RunStats {
  double load_seconds = 0;
  std::vector<double> forward_seconds;
  int64_t peak_rss_bytes = 0;
  std::string engine;
  std::map<std::string, std::string> plan;  ///< attention -> order it ran in
  double flops = 0;                         ///< of one forward in the textbook order, whole batch
  std::optional<double> gemm_peak_flops;
};

/// Fills engine, plan and flops of a run of `tensors` that gave `answers` (names of the contract).
void describe_run(const Engine& engine, const ArrayMap& tensors, const ArrayMap& answers,
                  RunStats& stats);

Json stats_to_json(const RunStats& stats);

/// Largest resident size of this process so far.
int64_t peak_rss_bytes();

}  // namespace perceiver::tasks
