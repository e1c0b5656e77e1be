#include "cli/verb.h"

#include <algorithm>
#include <deque>
#include <iostream>

#include <CLI/CLI.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"

#ifndef PERCEIVER_VERSION
#define PERCEIVER_VERSION "0.1.0"
#endif

namespace perceiver::cli {
namespace {

constexpr const char* kSummary =
    "Perceiver IO: one architecture reads text, pictures, sound, video and flow, and answers.";
constexpr const char* kFooter =
    "Results go to standard output, everything else to standard error.\n"
    "Exit codes: 0 success, 1 the work failed, 2 wrong usage, 3 training stopped by a signal.\n"
    "'perceiver VERB --help' shows what a verb takes.";

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  return names;
}

void check_verb(const CLI::App& app, const std::string& given) {
  const std::vector<std::string> names = verb_names(app);
  if (given.starts_with("-") || std::find(names.begin(), names.end(), given) != names.end()) {
    return;
  }
  const std::string nearest = nearest_word(given, names);
  throw UsageError(cat("unknown verb '", printable(given), "'",
                       nearest.empty() ? "; 'perceiver --help' lists them"
                                       : cat("; did you mean '", nearest, "'?")));
}

// What CLI11 found wrong, and where to read on.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();
  const CLI::App* verb = chosen.empty() ? &app : chosen.front();
  std::string message = first_line(error.what());
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    std::vector<std::string> known;
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        known.push_back("--" + name);
      }
    }
    for (const std::string& extra : verb->remaining(true)) {
      const std::string nearest = extra.starts_with("-") ? nearest_word(extra, known) : "";
      message = cat("unexpected argument '", printable(extra), "'",
                    nearest.empty() ? "" : cat("; did you mean '", nearest, "'?"));
      break;
    }
  }
  return cat(message, " (see 'perceiver ", verb == &app ? "" : verb->get_name() + " ", "--help')");
}

}  // namespace

Option& Option::required() {
  option_->required();
  return *this;
}

Option& Option::type_name(const std::string& name) {
  option_->type_name(name);
  return *this;
}

Option& Option::capture_default_str() {
  option_->capture_default_str();
  return *this;
}

Option& Option::check(const IsMember& accepted) {
  option_->check(CLI::IsMember(accepted.words));
  return *this;
}

Option& Option::check(const Range& accepted) {
  if (accepted.whole) {
    option_->check(CLI::Range(accepted.low_int, accepted.high_int));
  } else {
    option_->check(CLI::Range(accepted.low, accepted.high));
  }
  return *this;
}

Option& Option::excludes(const Option& other) {
  option_->excludes(other.option_);
  return *this;
}

Option& Option::excludes(const std::string& name) {
  option_->excludes(name);
  return *this;
}

Option& Option::take_all() {
  option_->take_all();
  return *this;
}

Option& Option::allow_extra_args(bool several) {
  option_->allow_extra_args(several);
  return *this;
}

Option Verb::add_option(const std::string& names, std::string& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names, std::vector<std::string>& value,
                        const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names, int& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names, int64_t& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names, uint64_t& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names, double& value, const std::string& help) {
  return Option(app_->add_option(names, value, help));
}

Option Verb::add_option(const std::string& names,
                        const std::function<void(const std::string&)>& take,
                        const std::string& help) {
  return Option(app_->add_option_function<std::string>(names, take, help));
}

Option Verb::add_flag(const std::string& names, bool& value, const std::string& help) {
  return Option(app_->add_flag(names, value, help));
}

void Verb::allow_extras() {
  app_->allow_extras();
}

struct Program::Parser {
  CLI::App app{kSummary, "perceiver"};
  std::deque<Verb> verbs;
  std::function<int()> run;  ///< of the chosen verb
};

Program::Program() : parser_(std::make_unique<Parser>()) {
  CLI::App& app = parser_->app;
  app.footer(kFooter);
  app.get_formatter()->column_width(30);
  app.set_version_flag("--version", "perceiver " PERCEIVER_VERSION, "Print the version and exit");
  app.require_subcommand(0, 1);
}

Program::~Program() = default;

Verb* Program::add(const std::string& name, const std::string& summary,
                   const std::string& details) {
  CLI::App* verb = parser_->app.add_subcommand(name, summary);
  verb->get_formatter()->column_width(34);
  verb->footer(details);
  verb->add_flag("--json", output_mode().json, "Answer in JSON");
  verb->add_flag("--quiet,-q", output_mode().quiet, "No progress bar and no remarks");
  return &parser_->verbs.emplace_back(verb);
}

void Program::on(Verb* verb, std::function<int()> action) {
  verb->app()->final_callback([this, action = std::move(action)] { parser_->run = action; });
}

int Program::parse_and_run(int argc, char** argv) {
  CLI::App& app = parser_->app;
  if (argc < 2) {
    std::cerr << app.help();
    return kWrongUsage;
  }
  check_verb(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    const int code = app.exit(success);
    finish_output();
    return code;
  } catch (const CLI::ParseError& error) {
    throw UsageError(explain(app, error));
  }
  if (!parser_->run) {
    throw UsageError("no verb given (see 'perceiver --help')");
  }
  const int code = parser_->run();
  finish_output();
  return code;
}

}  // namespace perceiver::cli
