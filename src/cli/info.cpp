#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/dispatch.h"
#include "perceiver/spec/cost.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/memory.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/plan.h"
#include "perceiver/spec/presets.h"

namespace perceiver::cli {
namespace {

struct InfoOptions {
  std::string model;
  std::string preset;
  std::string plan = "auto";
  PlanRequest request;
};

/// What is printed of one model.
struct Description {
  ModelSpec spec;
  ModelShape shape;
  ModelCost cost;
  std::vector<AttentionPlan> plans;
  std::vector<StageMemory> memory;
};

const char* kind_name(InputKind kind) {
  switch (kind) {
    case InputKind::kText:
      return "text";
    case InputKind::kGrid:
      return "grid";
    case InputKind::kLabel:
      return "label";
    case InputKind::kSet:
      return "set";
  }
  return "";
}

const char* query_name(QueryKind kind) {
  switch (kind) {
    case QueryKind::kLearned:
      return "learned";
    case QueryKind::kFourier:
      return "Fourier positions";
    case QueryKind::kInputTokens:
      return "input tokens";
    case QueryKind::kInputContent:
      return "input content";
    case QueryKind::kCoordinates:
      return "given coordinates";
    case QueryKind::kCaller:
      return "given vectors";
  }
  return "";
}

std::string extents(const std::vector<int64_t>& dims) {
  std::string text;
  for (const int64_t extent : dims) {
    text += (text.empty() ? "" : " x ") + grouped(extent);
  }
  return text;
}

int list_presets() {
  Json json = Json::array();
  Table table({"PRESET", "PARAMETERS", "WHAT IT IS"}, {false, true, false});
  for (const PresetInfo& info : preset_list()) {
    const int64_t parameters = parameter_count(preset(info.name));
    json.push_back({{"name", info.name}, {"summary", info.summary}, {"parameters", parameters}});
    table.add({info.name, grouped(parameters), info.summary});
  }
  if (output_mode().json) {
    print_json({{"presets", json}});
  } else {
    std::cout << table.text() << "\n'perceiver info --preset NAME' describes one, "
              << "'perceiver init --preset NAME DIR' makes it with random weights.\n";
  }
  return 0;
}

std::string process_text(const EncoderSpec& encoder) {
  std::string text = cat(encoder.num_self_attends_per_block, " self-attends");
  if (encoder.num_blocks > 1) {
    text += cat(" x ", encoder.num_blocks,
                encoder.share_blocks ? " blocks sharing weights" : " blocks");
  }
  if (encoder.num_cross_attends > 1) {
    text += cat(", inputs read ", encoder.num_cross_attends, " times");
  }
  return text;
}

void print_shapes(const ModelSpec& spec, const ModelShape& shape) {
  Table inputs({"READS", "KIND", "TOKEN GRID", "TOKENS", "CONTENT", "POSITION", "PADDING"},
               {false, false, false, true, true, true, true});
  for (const TokenShape& input : shape.inputs) {
    inputs.add({input.name, kind_name(spec.input(input.name).kind), extents(input.index_dims),
                grouped(input.tokens), cat(input.content_channels), cat(input.position_channels),
                cat(input.padding_channels)});
  }
  Table outputs({"ANSWERS", "QUERIES", "GRID", "ROWS", "CHANNELS", "PADDING"},
                {false, false, false, true, true, true});
  for (const QueryShape& output : shape.outputs) {
    const OutputSpec& wanted = spec.output(output.name);
    outputs.add({output.name,
                 spec.decoder.kind == DecoderKind::kProjection ? "mean of the latents"
                                                               : query_name(wanted.query),
                 extents(wanted.index_dims), output.rows > 0 ? grouped(output.rows) : "any",
                 cat(output.query_channels), cat(output.padding_channels)});
  }
  std::cout << inputs.text() << "\n" << outputs.text() << "\n";
}

void print_attention(const ModelSpec& spec, const ModelShape& shape) {
  Table table({"ATTENTION", "FROM", "TO", "HEADS", "QK", "V", "MLP"},
              {false, false, false, true, true, true, true});
  const auto side = [](int64_t rows, int64_t channels) {
    return cat(rows > 0 ? grouped(rows) : std::string("any"), " x ", channels);
  };
  const int64_t latents = spec.encoder.num_latents;
  const auto add = [&](const char* name, const AttentionShape& a, const std::string& from,
                       const std::string& to) {
    table.add({name, from, to, cat(a.num_heads), cat(a.qk_channels), cat(a.v_channels),
               cat(a.mlp_channels)});
  };
  const std::string latent_side = side(latents, spec.encoder.latent_channels);
  add("encode", shape.encoder_cross, side(shape.num_inputs, shape.input_channels), latent_side);
  add("process", shape.self, latent_side, latent_side);
  if (spec.decoder.kind == DecoderKind::kCrossAttend) {
    add("decode", shape.decoder_cross, latent_side, side(shape.num_outputs, shape.query_channels));
  }
  std::cout << table.text() << "\n";
}

void print_plans(const std::vector<AttentionPlan>& plans) {
  Table table({"PLAN OF", "ORDER", "FLOP", "TEXTBOOK"}, {false, false, true, true});
  std::string reasons;
  for (const AttentionPlan& plan : plans) {
    table.add(
        {plan.attention, plan_name(plan.plan), metric(plan.flops), metric(plan.textbook_flops)});
    reasons += cat("  ", plan.attention, ": ", plan.reason, "\n");
  }
  std::cout << table.text() << reasons << "\n";
}

void print_cost(const Description& model) {
  Table table({"STAGE", "PARAMETERS", "TEXTBOOK FLOP", "SCORES IF WHOLE", "WEIGHTS", "WORKING", ""},
              {false, true, true, true, true, true, false});
  double weights = 0;
  for (size_t i = 0; i < model.cost.stages.size(); ++i) {
    const StageCost& stage = model.cost.stages[i];
    const StageMemory& memory = model.memory[i];
    weights += memory.weight_bytes;
    table.add({stage.stage, grouped(stage.parameters), metric(stage.flops),
               stage.score_bytes > 0 ? byte_size(stage.score_bytes) : "",
               memory.weight_bytes > 0 ? byte_size(memory.weight_bytes) : "",
               memory.working_bytes > 0 ? byte_size(memory.working_bytes) : "", memory.working});
  }
  table.add({"total", grouped(model.cost.parameters), metric(model.cost.flops), "",
             byte_size(weights), cat("about ", byte_size(peak_bytes(model.memory) - weights))});
  std::cout
      << table.text()
      << "\nFLOP per forward, multiply and add counted separately. Memory of the engine runtime "
         "in\n"
         "float32, estimated. Scores are worked on in tiles; no score matrix is ever whole.\n";
}

std::string kernels_text(const std::vector<kernels::KernelSet>& sets, const std::string& used) {
  std::string line;
  for (const kernels::KernelSet& set : sets) {
    line += cat(line.empty() ? " " : "; ", set.name, " (", set.active ? used : set.reason, ")");
  }
  return cat(line.empty() ? " none in this build" : line, ".\n");
}

void print_kernels() {
  std::cout << "\nKernels:" << kernels_text(kernels::kernel_sets(), "used")
            << "Attention in bfloat16:"
            << kernels_text(kernels::bfloat16_kernel_sets(), "used with --precision bf16");
}

Json kernels_json(const std::vector<kernels::KernelSet>& sets) {
  Json json = Json::array();
  for (const kernels::KernelSet& set : sets) {
    json.push_back({{"name", set.name},
                    {"active", set.active},
                    {"runs_here", set.runs_here},
                    {"reason", set.reason}});
  }
  return json;
}

Json to_json(const Description& model) {
  Json stages = Json::array();
  for (size_t i = 0; i < model.cost.stages.size(); ++i) {
    const StageCost& stage = model.cost.stages[i];
    stages.push_back({{"stage", stage.stage},
                      {"parameters", stage.parameters},
                      {"flops", stage.flops},
                      {"score_bytes", stage.score_bytes},
                      {"weight_bytes", model.memory[i].weight_bytes},
                      {"working_bytes", model.memory[i].working_bytes}});
  }
  Json plans = Json::array();
  for (const AttentionPlan& plan : model.plans) {
    plans.push_back({{"attention", plan.attention},
                     {"plan", plan_name(plan.plan)},
                     {"reason", plan.reason},
                     {"flops", plan.flops},
                     {"textbook_flops", plan.textbook_flops}});
  }
  return {{"stages", stages},
          {"plans", plans},
          {"kernels", kernels_json(kernels::kernel_sets())},
          {"bfloat16_kernels", kernels_json(kernels::bfloat16_kernel_sets())},
          {"parameters", model.cost.parameters},
          {"flops", model.cost.flops},
          {"peak_bytes", peak_bytes(model.memory)},
          {"spec", spec_to_json(model.spec)},
          {"inputs", model.shape.num_inputs},
          {"input_channels", model.shape.input_channels},
          {"outputs", model.shape.num_outputs},
          {"query_channels", model.shape.query_channels}};
}

Description describe(const InfoOptions& o) {
  Description model;
  model.spec = o.model.empty() ? named_preset(o.preset) : tasks::load_spec(o.model);
  model.shape = resolve(model.spec);
  model.cost = textbook_cost(model.spec, o.request.num_outputs);
  PlanRequest request = o.request;
  request.wanted = parse_plan(o.plan);
  model.plans = plan_attentions(model.spec, request);
  model.memory = estimate_memory(model.spec, model.plans, request);
  return model;
}

int run(const InfoOptions& o) {
  if (o.model.empty() && o.preset.empty()) {
    return list_presets();
  }
  const Description model = describe(o);
  if (output_mode().json) {
    print_json(to_json(model));
    return 0;
  }
  const ModelSpec& spec = model.spec;
  std::cout << (spec.name.empty() ? std::string("model") : printable(spec.name)) << ": "
            << grouped(model.cost.parameters) << " parameters"
            << (spec.architecture.empty() ? "" : ", transformers class " + spec.architecture)
            << "\n"
            << spec.encoder.num_latents << " latents x " << spec.encoder.latent_channels
            << " channels; " << process_text(spec.encoder) << "\n\n";
  print_shapes(spec, model.shape);
  print_attention(spec, model.shape);
  print_plans(model.plans);
  print_cost(model);
  print_kernels();
  return 0;
}

}  // namespace

void add_info(Program& program) {
  auto o = std::make_shared<InfoOptions>();
  Verb* verb =
      program.add("info", "Describe a model: what it reads and answers, its size, work and memory",
                  "Without --model and --preset: the list of presets.");
  const Option model =
      verb->add_option("--model,-m,model", o->model, "Model folder or Haiku pickle")
          ->type_name("DIR");
  verb->add_option("--preset", o->preset, "A built-in description")
      ->type_name("NAME")
      ->excludes(model);
  verb->add_option("--plan", o->plan, "Order of attention to describe: auto, or one forced")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"auto", "textbook", "absorbed", "factored"}));
  verb->add_option("--num-outputs", o->request.num_outputs,
                   "Count the work of so many decoded rows, scattered")
      ->type_name("N")
      ->check(Range(int64_t{0}, int64_t{1} << 40));
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
