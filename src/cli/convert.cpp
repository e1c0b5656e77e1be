#include <filesystem>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/io/checkpoint.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/spec/haiku.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/parameters.h"

namespace perceiver::cli {
namespace {

constexpr const char* kConvertDetails =
    "IN is a model folder (transformers' layout or ours, .bin or .safetensors weights) or one of\n"
    "DeepMind's Haiku pickles; OUT is the folder to write. A single weights file converts to a "
    "single\n"
    ".safetensors file.\n"
    "--compat changes how the model computes where transformers and DeepMind differ "
    "(docs/quirks.md);\n"
    "without it the model keeps computing what it did. Haiku pickles are read, never written.";

struct ConvertOptions {
  std::string in;
  std::string out;
  std::string compat = "keep";
  std::string layout = "auto";
};

bool is_weights_file(const std::string& path) {
  return std::filesystem::is_regular_file(path) &&
         io::sniff_checkpoint(path) != io::CheckpointKind::kHaiku;
}

int convert_weights(const ConvertOptions& o) {
  if (!o.out.ends_with(".safetensors")) {
    throw UsageError(cat("convert: '", o.in,
                         "' is a weights file, so the output must be a "
                         ".safetensors file, not '",
                         o.out, "'"));
  }
  tasks::require_writable(o.out);
  const ArrayMap tensors = io::read_checkpoint(o.in);
  io::write_safetensors(o.out, tensors, {{"format", "pt"}});
  if (output_mode().json) {
    print_json({{"file", o.out}, {"tensors", tensors.size()}});
  } else {
    std::cout << o.out << ": " << tensors.size() << " tensors\n";
  }
  return 0;
}

tasks::Layout layout_of(const ConvertOptions& o) {
  return o.layout == "perceiver"      ? tasks::Layout::kOurs
         : o.layout == "transformers" ? tasks::Layout::kTransformers
                                      : tasks::Layout::kAuto;
}

int run(const ConvertOptions& o) {
  if (is_weights_file(o.in)) {
    return convert_weights(o);
  }
  tasks::require_writable_folder(o.out);
  tasks::Bundle bundle = tasks::load_bundle(o.in);
  if (o.compat == "deepmind") {
    bundle.spec = as_deepmind(std::move(bundle.spec));
  } else if (o.compat == "transformers") {
    bundle.spec = as_transformers(std::move(bundle.spec));
  }
  tasks::save_bundle(bundle, o.out, layout_of(o));
  const bool theirs = layout_of(o) != tasks::Layout::kOurs && has_hugging_face_form(bundle.spec);
  if (output_mode().json) {
    print_json({{"folder", o.out},
                {"parameters", parameter_count(bundle.spec)},
                {"layout", theirs ? "transformers" : "perceiver"}});
  } else {
    std::cout << o.out << ": " << grouped(parameter_count(bundle.spec)) << " parameters, "
              << (theirs ? "transformers' layout" : "our layout (spec.json)") << "\n";
  }
  return 0;
}

}  // namespace

void add_convert(Program& program) {
  auto o = std::make_shared<ConvertOptions>();
  Verb* verb = program.add("convert", "Change a checkpoint's format", kConvertDetails);
  verb->add_option("in", o->in, "What to read")->type_name("IN")->required();
  verb->add_option("out", o->out, "What to write")->type_name("OUT")->required();
  verb->add_option("--compat", o->compat, "Compute like: keep, deepmind or transformers")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"keep", "deepmind", "transformers"}));
  verb->add_option("--layout", o->layout, "Write: auto, transformers or perceiver")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"auto", "transformers", "perceiver"}));
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
