#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"
#include "perceiver/tasks/image.h"

namespace perceiver::cli {
namespace {

constexpr const char* kInitDetails =
    "Writes a model with random weights: transformers' layout where transformers has a class for "
    "it,\n"
    "else spec.json beside model.safetensors. The same seed gives the same bytes on every "
    "machine.\n"
    "--spec takes our spec file or a Hugging Face config.json.";

struct InitOptions {
  std::string preset;
  std::string spec;
  std::string folder;
  std::string init = "auto";
  uint64_t seed = 0;
};

HuggingFaceConfig described(const InitOptions& o) {
  if (!o.preset.empty()) {
    return {named_preset(o.preset), 0.02};
  }
  const Json json = read_json(o.spec);
  if (json.is_object() && json.contains("model_type")) {
    return config_from_hugging_face(json, o.spec);
  }
  return {spec_from_json(json, o.spec), 0.02};
}

int run(const InitOptions& o) {
  if (o.preset.empty() == o.spec.empty()) {
    throw UsageError("init: give either --preset NAME or --spec FILE");
  }
  tasks::require_writable_folder(o.folder);
  tasks::Bundle bundle;
  const HuggingFaceConfig config = described(o);
  bundle.spec = config.spec;
  const bool transformers =
      o.init == "transformers" || (o.init == "auto" && !bundle.spec.architecture.empty());
  bundle.weights = random_parameters(
      bundle.spec, transformers ? InitScheme::kTransformers : InitScheme::kDeepMind, o.seed,
      config.initializer_range);
  bundle.preprocessor = tasks::default_preprocessor(bundle.spec);
  tasks::save_bundle(bundle, o.folder);
  const int64_t parameters = parameter_count(bundle.spec);
  if (output_mode().json) {
    print_json({{"folder", o.folder},
                {"parameters", parameters},
                {"seed", o.seed},
                {"init", transformers ? "transformers" : "deepmind"},
                {"layout", has_hugging_face_form(bundle.spec) ? "transformers" : "perceiver"}});
  } else {
    std::cout << o.folder << ": " << grouped(parameters) << " random parameters, seed " << o.seed
              << "\n";
  }
  return 0;
}

}  // namespace

void add_init(Program& program) {
  auto o = std::make_shared<InitOptions>();
  Verb* verb = program.add("init", "Make a model with random weights", kInitDetails);
  const Option preset =
      verb->add_option("--preset", o->preset, "A built-in description")->type_name("NAME");
  verb->add_option("--spec", o->spec, "A spec file or a Hugging Face config.json")
      ->type_name("FILE")
      ->excludes(preset);
  verb->add_option("--seed", o->seed, "Seed of the random weights")
      ->type_name("S")
      ->capture_default_str();
  verb->add_option(
          "--init", o->init,
          "Scheme: transformers (normal 0.02), deepmind, or auto: transformers for its own "
          "classes, else deepmind")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"auto", "transformers", "deepmind"}));
  verb->add_option("folder", o->folder, "Folder to write")->type_name("DIR")->required();
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
