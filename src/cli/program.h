#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/verb.h"
#include "perceiver/tasks/bundle.h"

namespace perceiver::cli {

inline constexpr int kWrongUsage = 2;  ///< exit code

/// A mistake in how the program was called: exit code kWrongUsage.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The one program: its verbs, and the parser that picks one.
class Program {
 public:
  Program();
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// A new verb with --json and --quiet. `details` follows the options in its help.
  Verb* add(const std::string& name, const std::string& summary, const std::string& details = "");
  /// What to do when `verb` was chosen; returns the exit code.
  void on(Verb* verb, std::function<int()> action);

  /// Runs the verb that the arguments name. @return the exit code @throws UsageError
  int parse_and_run(int argc, char** argv);

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

/// Options every verb that runs a model has.
struct ModelOptions {
  std::string model;
  tasks::EngineChoice choice;
};
/// @param fallback  name of the embedded model used when --model is absent; empty = required
void add_model_options(Verb* verb, ModelOptions& options, const std::string& fallback = "");
/// Its part that says how to run one. `choice` must outlive parsing.
void add_engine_options(Verb* verb, tasks::EngineChoice& choice);

/// A shipped model ("byte-mlm-perceiver"): beside the program or in the source tree.
/// @throws Error(kIo) saying where it was looked for
std::string embedded_model(const std::string& name);
/// Folder with the shipped models and samples. @throws Error(kIo)
std::string models_folder();

/// preset(), but an unknown name is wrong usage. @throws UsageError naming the nearest
ModelSpec named_preset(const std::string& name);

/// LibTorch's messages carry a stack trace after the first line.
std::string first_line(const std::string& text);

/// Known word closest to `word` in edits, or "" when none is close.
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);

// One per file of that name.
void add_demo(Program& program);
void add_info(Program& program);
void add_forward(Program& program);
void add_fill_mask(Program& program);
void add_classify(Program& program);
void add_flow(Program& program);
void add_autoencode(Program& program);
void add_convert(Program& program);
void add_init(Program& program);
void add_verify(Program& program);
void add_train(Program& program);
void add_eval(Program& program);
void add_plot(Program& program);

}  // namespace perceiver::cli
