#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/cost.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/spec/presets.h"

namespace perceiver::cli {
namespace {

struct Options {
  std::string model;
  std::string preset;
  int64_t outputs = -1;
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
  Table table({"ATTENTION", "FROM", "TO", "HEADS", "QK", "V", "MLP", "PLAN"},
              {false, false, false, true, true, true, true, false});
  const auto side = [](int64_t rows, int64_t channels) {
    return cat(rows > 0 ? grouped(rows) : std::string("any"), " x ", channels);
  };
  const int64_t latents = spec.encoder.num_latents;
  const auto add = [&](const char* name, const AttentionShape& a, const std::string& from,
                       const std::string& to) {
    table.add({name, from, to, cat(a.num_heads), cat(a.qk_channels), cat(a.v_channels),
               cat(a.mlp_channels), "textbook"});
  };
  const std::string latent_side = side(latents, spec.encoder.latent_channels);
  add("encode", shape.encoder_cross, side(shape.num_inputs, shape.input_channels), latent_side);
  add("process", shape.self, latent_side, latent_side);
  if (spec.decoder.kind == DecoderKind::kCrossAttend) {
    add("decode", shape.decoder_cross, latent_side, side(shape.num_outputs, shape.query_channels));
  }
  std::cout << table.text() << "\n";
}

Json cost_to_json(const ModelCost& cost) {
  Json stages = Json::array();
  for (const StageCost& stage : cost.stages) {
    stages.push_back({{"stage", stage.stage},
                      {"parameters", stage.parameters},
                      {"flops", stage.flops},
                      {"score_bytes", stage.score_bytes},
                      {"plan", "textbook"}});
  }
  return {{"stages", stages}, {"parameters", cost.parameters}, {"flops", cost.flops}};
}

void print_cost(const ModelCost& cost) {
  Table table({"STAGE", "PARAMETERS", "FLOP", "SCORES IF WHOLE"}, {false, true, true, true});
  for (const StageCost& stage : cost.stages) {
    table.add({stage.stage, grouped(stage.parameters), metric(stage.flops),
               stage.score_bytes > 0 ? byte_size(stage.score_bytes) : ""});
  }
  table.add({"total", grouped(cost.parameters), metric(cost.flops)});
  std::cout
      << table.text()
      << "\nFLOP per forward at batch 1, multiply and add counted separately. Scores are worked\n"
         "on in tiles; no score matrix is ever whole.\n";
}

int run(const Options& o) {
  if (o.model.empty() && o.preset.empty()) {
    return list_presets();
  }
  ModelSpec spec = o.model.empty() ? named_preset(o.preset) : tasks::load_spec(o.model);
  const ModelShape shape = resolve(spec);
  const ModelCost cost = textbook_cost(spec, o.outputs);
  if (output_mode().json) {
    Json json = cost_to_json(cost);
    json["spec"] = spec_to_json(spec);
    json["inputs"] = shape.num_inputs;
    json["input_channels"] = shape.input_channels;
    json["outputs"] = shape.num_outputs;
    json["query_channels"] = shape.query_channels;
    print_json(json);
    return 0;
  }
  std::cout << (spec.name.empty() ? std::string("model") : printable(spec.name)) << ": "
            << grouped(cost.parameters) << " parameters"
            << (spec.architecture.empty() ? "" : ", transformers class " + spec.architecture)
            << "\n"
            << spec.encoder.num_latents << " latents x " << spec.encoder.latent_channels
            << " channels; " << process_text(spec.encoder) << "\n\n";
  print_shapes(spec, shape);
  print_attention(spec, shape);
  print_cost(cost);
  return 0;
}

}  // namespace

void add_info(Program& program) {
  auto o = std::make_shared<Options>();
  CLI::App* verb =
      program.add("info", "Describe a model: what it reads and answers, its size, work and memory",
                  "Without --model and --preset: the list of presets.");
  CLI::Option* model =
      verb->add_option("--model,-m,model", o->model, "Model folder or Haiku pickle")
          ->type_name("DIR");
  verb->add_option("--preset", o->preset, "A built-in description")
      ->type_name("NAME")
      ->excludes(model);
  verb->add_option("--num-outputs", o->outputs, "Count the work of so many decoded rows")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
