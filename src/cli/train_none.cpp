// The verbs of train.cpp in a program without LibTorch.
#include "cli/program.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::cli {
namespace {

void add_absent(Program& program, const std::string& name, const std::string& summary) {
  Verb* verb = program.add(name, summary + " (not in this build)",
                           "This program was built without LibTorch; `make build` makes one that "
                           "trains.");
  verb->allow_extras();
  program.on(verb, [name]() -> int {
    throw Error(ErrorCode::kUnsupported,
                cat(name,
                    ": this program was built without LibTorch (PERCEIVER_TORCH=OFF) and has no "
                    "training; `make build` makes one that has"));
  });
}

}  // namespace

void add_train(Program& program) {
  add_absent(program, "train", "Train a model by a recipe");
}

void add_eval(Program& program) {
  add_absent(program, "eval", "Measure a model on a recipe's test data");
}

}  // namespace perceiver::cli
