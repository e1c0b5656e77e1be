#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

using perceiver::cat;
using perceiver::cli::Program;
using perceiver::cli::UsageError;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

// A forward pass frees and asks for the same tens of megabytes over and over. Kept by the process,
// they are not zeroed by the kernel each time.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kLargestAllowedThreshold = 32 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestAllowedThreshold);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// LibTorch's messages carry a stack trace after the first line.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

std::vector<std::string> verb_names(const Program& program) {
  std::vector<std::string> names;
  for (const CLI::App* verb : program.app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  return names;
}

void check_verb(const Program& program, const std::string& given) {
  const std::vector<std::string> names = verb_names(program);
  if (given.starts_with("-") || std::find(names.begin(), names.end(), given) != names.end()) {
    return;
  }
  const std::string nearest = perceiver::cli::nearest_word(given, names);
  throw UsageError(cat("unknown verb '", perceiver::printable(given), "'",
                       nearest.empty() ? "; 'perceiver --help' lists them"
                                       : cat("; did you mean '", nearest, "'?")));
}

// What CLI11 found wrong, and where to read on.
std::string explain(const Program& program, const CLI::ParseError& error) {
  const auto chosen = program.app.get_subcommands();
  const CLI::App* verb = chosen.empty() ? &program.app : chosen.front();
  std::string message = first_line(error.what());
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    std::vector<std::string> known;
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        known.push_back("--" + name);
      }
    }
    for (const std::string& extra : verb->remaining(true)) {
      const std::string nearest =
          extra.starts_with("-") ? perceiver::cli::nearest_word(extra, known) : "";
      message = cat("unexpected argument '", perceiver::printable(extra), "'",
                    nearest.empty() ? "" : cat("; did you mean '", nearest, "'?"));
      break;
    }
  }
  return cat(message, " (see 'perceiver ", verb == &program.app ? "" : verb->get_name() + " ",
             "--help')");
}

int parse_and_run(Program& program, int argc, char** argv) {
  if (argc < 2) {
    std::cerr << program.app.help();
    return kWrongUsage;
  }
  check_verb(program, argv[1]);
  try {
    program.app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    const int code = program.app.exit(success);
    perceiver::cli::finish_output();
    return code;
  } catch (const CLI::ParseError& error) {
    throw UsageError(explain(program, error));
  }
  if (!program.run) {
    throw UsageError("no verb given (see 'perceiver --help')");
  }
  const int code = program.run();
  perceiver::cli::finish_output();
  return code;
}

int report(const std::string& message, int code) {
  std::cerr << "perceiver: " << message << '\n';
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  try {
    Program program;
    perceiver::cli::add_demo(program);
    perceiver::cli::add_info(program);
    perceiver::cli::add_forward(program);
    perceiver::cli::add_fill_mask(program);
    perceiver::cli::add_classify(program);
    perceiver::cli::add_flow(program);
    perceiver::cli::add_autoencode(program);
    perceiver::cli::add_convert(program);
    perceiver::cli::add_init(program);
    perceiver::cli::add_verify(program);
    perceiver::cli::add_train(program);
    perceiver::cli::add_eval(program);
    return parse_and_run(program, argc, argv);
  } catch (const UsageError& error) {
    return report(error.what(), kWrongUsage);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kFailed);
  } catch (const std::exception& error) {
    return report(first_line(error.what()), kFailed);
  }
}
