#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "cli/texts.h"
#include "perceiver/base/str.h"
#include "perceiver/tasks/text.h"

namespace perceiver::cli {
namespace {

constexpr const char* kFillMaskDetails =
    "Each literal [MASK] stands for one byte. --hide WORD masks a word for you, --span N makes "
    "every\n"
    "[MASK] N bytes long. '-' reads one text per line from standard input.\n"
    "Example: perceiver fill-mask \"Nothing is so difficult as to be honest.\" --hide difficult";

struct FillMaskOptions {
  ModelOptions model;
  std::vector<std::string> texts;
  std::vector<std::string> hide;
  int64_t span = 1;
  tasks::FillMaskOptions fill;
};

Json to_json(const tasks::FilledText& filled) {
  Json masks = Json::array();
  for (const tasks::MaskedByte& mask : filled.masks) {
    Json candidates = Json::array();
    for (const tasks::ByteCandidate& candidate : mask.candidates) {
      candidates.push_back({{"id", candidate.id},
                            {"text", candidate.shown},
                            {"probability", candidate.probability}});
    }
    masks.push_back({{"position", mask.position},
                     {"filled_with", mask.filled_with},
                     {"candidates", candidates}});
  }
  return {{"text", filled.given}, {"filled", filled.filled}, {"masks", masks}};
}

void print(const tasks::FilledText& filled) {
  std::cout << filled.filled << "\n";
  for (const tasks::MaskedByte& mask : filled.masks) {
    std::string line = cat("  byte ", mask.position, ": ");
    for (const tasks::ByteCandidate& candidate : mask.candidates) {
      line += cat(" '", candidate.shown, "' ", percent(candidate.probability), " ");
    }
    if (!mask.candidates.empty()) {
      std::cout << line << "\n";
    }
  }
}

int run(const FillMaskOptions& o) {
  const std::string folder =
      o.model.model.empty() ? embedded_model("byte-mlm-perceiver") : o.model.model;
  std::vector<std::string> texts = read_texts(o.texts);
  for (std::string& text : texts) {
    for (const std::string& part : o.hide) {
      text = tasks::hide(text, part);
    }
    text = tasks::widen_masks(text, o.span);
  }
  const tasks::Model model = tasks::open_model(folder, o.model.choice);
  ProgressBar bar;
  tasks::FillMaskOptions options = o.fill;
  options.progress = bar.callback();
  Json json = Json::array();
  for (const std::string& text : texts) {
    const tasks::FilledText filled = tasks::fill_mask(model.bundle, *model.engine, text, options);
    if (output_mode().json) {
      json.push_back(to_json(filled));
    } else {
      print(filled);
    }
  }
  if (output_mode().json) {
    print_json({{"model", folder}, {"results", json}});
  }
  return 0;
}

}  // namespace

void add_fill_mask(Program& program) {
  auto o = std::make_shared<FillMaskOptions>();
  Verb* verb = program.add("fill-mask", "Fill in the hidden bytes of a text", kFillMaskDetails);
  add_model_options(verb, o->model, "byte-mlm-perceiver");
  verb->add_option("text", o->texts, "Texts with [MASK]s, or '-'")->type_name("TEXT")->required();
  verb->add_option("--hide", o->hide, "Mask every occurrence of this part")
      ->type_name("WORD")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--span", o->span, "Bytes one [MASK] stands for")
      ->type_name("N")
      ->capture_default_str()
      ->check(Range(1, 4096));
  verb->add_option("--top", o->fill.top, "Candidates shown per byte")
      ->type_name("K")
      ->capture_default_str()
      ->check(Range(0, 262));
  verb->add_flag("--one-by-one", o->fill.one_by_one,
                 "Fill the surest byte first and read again, until none is left");
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
