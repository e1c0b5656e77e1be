#include "perceiver/tasks/stats.h"

#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "perceiver/kernels/dispatch.h"
#include "perceiver/spec/cost.h"
#include "perceiver/spec/model_shape.h"

namespace perceiver::tasks {
namespace {

// Rows the decoder made for one example: the asked points, else everything.
int64_t decoded_rows(const ModelSpec& spec, const ArrayMap& tensors) {
  const ModelShape shape = resolve(spec);
  int64_t rows = 0;
  for (const QueryShape& output : shape.outputs) {
    int64_t own = output.rows;
    for (const char* prefix : {"points.", "subsampled_output_points.", "queries."}) {
      const auto given = tensors.find(prefix + output.name);
      if (given != tensors.end()) {
        own = given->second.size(given->second.dim() == 3 ? 1 : 0);
      }
    }
    rows += own;
  }
  return rows;
}

}  // namespace

void describe_run(const Engine& engine, const ArrayMap& tensors, const ArrayMap& answers,
                  RunStats& stats) {
  const ModelSpec& spec = engine.spec();
  stats.engine = engine.name();
  stats.kernels = kernels::active_kernels();
  stats.attentions = engine.plans();
  std::map<std::string, double> most;
  for (const UsedPlan& used : stats.attentions) {
    // Where an attention ran in several orders, the one that did most of its work speaks for it.
    if (const auto known = most.find(used.attention);
        known == most.end() || used.flops > known->second) {
      most[used.attention] = used.flops;
      stats.plan[used.attention] = used.plan;
    }
  }
  const int64_t batch = answers.empty() ? 1 : answers.begin()->second.size(0);
  stats.flops = static_cast<double>(batch) * textbook_cost(spec, decoded_rows(spec, tensors)).flops;
}

Json stats_to_json(const RunStats& stats) {
  Json attentions = Json::array();
  for (const UsedPlan& used : stats.attentions) {
    attentions.push_back({{"attention", used.attention},
                          {"plan", used.plan},
                          {"reason", used.reason},
                          {"flops", used.flops}});
  }
  Json json{{"load_seconds", stats.load_seconds},
            {"forward_seconds", stats.forward_seconds},
            {"peak_rss_bytes", stats.peak_rss_bytes},
            {"engine", stats.engine},
            {"kernels", stats.kernels},
            {"bfloat16_kernels", stats.bfloat16_kernels},
            {"requested_plan", stats.requested_plan},
            {"plan", stats.plan},
            {"attentions", attentions},
            {"flops", stats.flops}};
  if (stats.gemm_peak_flops) {
    json["gemm_peak_flops"] = *stats.gemm_peak_flops;
  }
  return json;
}

int64_t peak_rss_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

}  // namespace perceiver::tasks
