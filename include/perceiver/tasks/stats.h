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
  std::string kernels;           ///< the set of attention kernels: "avx2", ...
  std::string bfloat16_kernels;  ///< what computed attention in bfloat16; empty: nothing did
  std::string requested_plan = "auto";
  std::map<std::string, std::string> plan;  ///< attention -> order it ran in
  /// Every attention, in the order of the walk, with the reason for its order and its flops. A
  /// decoder of several outputs has one entry for each.
  std::vector<UsedPlan> attentions;
  double flops = 0;  ///< of one forward in the textbook order, whole batch
  std::optional<double> gemm_peak_flops;
};

/// Fills engine, kernels, plan, attentions and flops of a run of `tensors` that gave `answers`
/// (names of the contract).
void describe_run(const Engine& engine, const ArrayMap& tensors, const ArrayMap& answers,
                  RunStats& stats);

Json stats_to_json(const RunStats& stats);

/// Largest resident size of this process so far.
int64_t peak_rss_bytes();

}  // namespace perceiver::tasks
