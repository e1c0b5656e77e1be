#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

// Exact orders of computing one attention, and the choice among them (docs/plans.md).

namespace perceiver {

enum class Plan {
  kAuto,
  kTextbook,  ///< project keys and values, then attend, as the formula is written
  kAbsorbed,  ///< projections of the large side moved to the small side (queries or latents)
  kFactored,  ///< absorbed, and separable positions enter as per-axis tables
};

const char* plan_name(Plan plan);
/// @throws Error(kArgument) listing the names
Plan parse_plan(const std::string& name);

/// What a run is like; the planner's other input beside the spec.
struct PlanRequest {
  Plan wanted = Plan::kAuto;
  int64_t batch = 1;
  int64_t num_inputs = -1;       ///< tokens read; < 0 = all the spec allows
  int64_t num_outputs = -1;      ///< rows decoded; < 0 = all
  bool constant_latents = true;  ///< inference: what depends on weights alone costs nothing
};

/// The decision for one attention and why.
struct AttentionPlan {
  std::string
      attention;  ///< "encoder.cross_attend.0", "encoder.self_attend", "decoder.cross_attend"
  Plan plan = Plan::kTextbook;
  std::string reason;  ///< one line: the runner-up and its cost, or why `wanted` does not apply
  /// Predicted, of all uses of this attention module (its MLP included) in one forward of the
  /// batch.
  double flops = 0;
  double textbook_flops = 0;  ///< the same in the textbook order
};

/// One entry per distinct attention of the model (weight sets of repeated cross-attends share one),
/// in the order of the walk. Cheapest predicted cost by rule: flops weighted by how well each kind
/// of work uses the machine.
std::vector<AttentionPlan> plan_attentions(const ModelSpec& spec, const PlanRequest& request = {});

}  // namespace perceiver
