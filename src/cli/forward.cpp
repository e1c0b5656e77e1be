#include "perceiver/tasks/forward.h"

#include <chrono>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/tasks/stats.h"

namespace perceiver::cli {
namespace {

constexpr const char* kForwardDetails =
    "Reads named tensors, runs the model, writes its answers: what transformers' forward() does.\n"
    "Inputs: 'inputs' and 'attention_mask'; multimodal 'inputs.image', 'inputs.audio', "
    "'inputs.label'\n"
    "and optionally 'subsampled_output_points.image|audio'. Models outside transformers:\n"
    "'inputs.<name>', 'mask.<name>', 'points.<output>', 'queries.<output>', channels last.\n"
    "Answers: 'logits', or 'logits.<output>' when there are several.\n"
    "A --plan that does not apply to an attention falls back to one that does; the stats say "
    "which\n"
    "ran. Exit codes: 0 success, 1 the work failed, 2 wrong usage.";

struct ForwardOptions {
  ModelOptions model;
  std::string inputs;
  std::string outputs;
  std::string stats;
  int repeat = 1;
  bool gemm_peak = false;
};

int run(const ForwardOptions& o) {
  tasks::ForwardOptions options;
  options.memory_budget = o.model.choice.memory_budget;
  options.double_precision = o.model.choice.precision == "fp64";
  tasks::require_writable(o.outputs);
  if (!o.stats.empty()) {
    tasks::require_writable(o.stats);
  }
  const ArrayMap tensors = io::read_safetensors(o.inputs);
  ProgressBar bar;
  options.progress = bar.callback();
  // Wrong inputs should be told before a large model is read.
  tasks::forward_call(tasks::load_spec(o.model.model), tensors, options);
  tasks::Model model = tasks::open_model(o.model.model, o.model.choice);
  tasks::RunStats stats;
  stats.load_seconds = model.load_seconds;
  ArrayMap answers;
  for (int i = 0; i < o.repeat; ++i) {
    answers.clear();
    const auto start = std::chrono::steady_clock::now();
    answers = tasks::forward(*model.engine, tensors, options);
    stats.forward_seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  for (auto& [name, array] : answers) {
    array = array.dtype() == DType::kF64 ? array : array.to(DType::kF32);
  }
  stats.peak_rss_bytes = tasks::peak_rss_bytes();
  tasks::describe_run(*model.engine, tensors, answers, stats);
  stats.requested_plan = o.model.choice.plan;
  if (o.model.choice.precision == "bf16" && stats.engine == "runtime") {
    stats.bfloat16_kernels = kernels::active_bfloat16_kernels();
  }
  io::write_safetensors(o.outputs, answers);
  if (o.gemm_peak) {
    stats.gemm_peak_flops = tasks::measure_gemm_peak(o.model.choice.num_threads);
  }
  Json json = tasks::stats_to_json(stats);
  if (!o.stats.empty()) {
    write_json(o.stats, json);
  }
  if (output_mode().json) {
    for (const auto& [name, array] : answers) {
      json["outputs"][name] = {{"dtype", dtype_name(array.dtype())}, {"shape", array.shape()}};
    }
    print_json(json);
    return 0;
  }
  for (const auto& [name, array] : answers) {
    std::cout << name << "  " << dtype_name(array.dtype()) << " " << shape_string(array.shape())
              << '\n';
  }
  return 0;
}

}  // namespace

void add_forward(Program& program) {
  auto o = std::make_shared<ForwardOptions>();
  Verb* verb = program.add("forward", "Run a model on tensors: safetensors in, safetensors out",
                           kForwardDetails);
  add_model_options(verb, o->model);
  verb->add_option("--inputs,-i", o->inputs, "Tensors to read")->type_name("FILE")->required();
  verb->add_option("--outputs,-o", o->outputs, "Tensors to write")->type_name("FILE")->required();
  verb->add_option("--repeat", o->repeat, "Run so many times, for timing")
      ->type_name("K")
      ->capture_default_str()
      ->check(Range(1, 1000000));
  verb->add_option("--stats", o->stats, "Write times, memory, plan and FLOPs as JSON")
      ->type_name("FILE");
  verb->add_flag("--gemm-peak", o->gemm_peak, "Measure the matrix-product peak too");
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
