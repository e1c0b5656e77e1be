#include "perceiver/tasks/verify.h"

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"

namespace perceiver::cli {
namespace {

constexpr const char* kVerifyDetails =
    "Replays what the released checkpoints are known to answer (transformers' integration tests) "
    "and\n"
    "compares. The language model needs nothing else; the others need the published picture.\n"
    "Exit code 0 when every compared answer agrees and at least one was compared, else 1.";

struct VerifyOptions {
  ModelOptions model;
  std::string image;
  std::string frame;
};

const char* word(tasks::CheckResult result) {
  switch (result) {
    case tasks::CheckResult::kPass:
      return "pass";
    case tasks::CheckResult::kFail:
      return "FAIL";
    case tasks::CheckResult::kSkipped:
      return "skipped";
  }
  return "";
}

int run(const VerifyOptions& o) {
  const tasks::Model model = tasks::open_model(o.model.model, o.model.choice);
  ProgressBar bar;
  const std::vector<tasks::KnownAnswer> answers =
      tasks::verify_known_answers(model.bundle, *model.engine, {o.image, o.frame, bar.callback()});
  const bool good = tasks::all_pass(answers);
  if (output_mode().json) {
    Json checks = Json::array();
    for (const tasks::KnownAnswer& answer : answers) {
      checks.push_back({{"what", answer.what},
                        {"expected", answer.expected},
                        {"got", answer.got},
                        {"result", word(answer.result)}});
    }
    print_json({{"model", o.model.model}, {"checks", checks}, {"pass", good}});
  } else {
    for (const tasks::KnownAnswer& answer : answers) {
      std::cout << word(answer.result) << "  " << answer.what << "\n";
      if (answer.result == tasks::CheckResult::kSkipped) {
        std::cout << "      " << answer.got << "\n";
      } else {
        std::cout << "      expected  " << answer.expected << "\n      got       " << answer.got
                  << "\n";
      }
    }
    std::cout << (good ? "The checkpoint answers as published.\n" : "NOT verified: see above.\n");
  }
  return good ? 0 : 1;
}

}  // namespace

void add_verify(Program& program) {
  auto o = std::make_shared<VerifyOptions>();
  Verb* verb = program.add("verify", "Check a released checkpoint against its published answers",
                           kVerifyDetails);
  add_model_options(verb, o->model);
  verb->add_option("--image", o->image, "COCO val2017 picture 000000039769.jpg, for vision models")
      ->type_name("FILE");
  verb->add_option("--frame", o->frame, "Sintel frame of transformers' test, for optical flow")
      ->type_name("FILE");
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
