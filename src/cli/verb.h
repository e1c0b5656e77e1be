#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
class Option;
}  // namespace CLI

namespace perceiver::cli {

// What the verbs use of CLI11. Only verb.cpp and main's parser include it: each file that does
// takes half a dozen seconds longer to compile.

/// Accepted words of an option.
struct IsMember {
  std::vector<std::string> words;
};

/// Accepted numbers, both ends included.
struct Range {
  Range(double low_end, double high_end) : low(low_end), high(high_end) {}
  Range(int64_t low_end, int64_t high_end) : whole(true), low_int(low_end), high_int(high_end) {}
  Range(int low_end, int high_end) : Range(int64_t{low_end}, int64_t{high_end}) {}
  double low = 0, high = 0;
  bool whole = false;
  int64_t low_int = 0, high_int = 0;
};

/// One option of a verb; a handle, to be said more about: `verb->add_option(...)->required()`.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  Option* operator->() { return this; }

  Option& required();
  Option& type_name(const std::string& name);
  /// The help shows the value the variable holds now. Called after the variable is known.
  Option& capture_default_str();
  Option& check(const IsMember& accepted);
  Option& check(const Range& accepted);
  Option& excludes(const Option& other);
  Option& excludes(const std::string& name);
  /// Every occurrence adds to the list.
  Option& take_all();
  Option& allow_extra_args(bool several);

 private:
  CLI::Option* option_;
};

/// One verb of the program and its options. Variables must outlive parsing.
class Verb {
 public:
  explicit Verb(CLI::App* app) : app_(app) {}

  Option add_option(const std::string& names, std::string& value, const std::string& help);
  Option add_option(const std::string& names, std::vector<std::string>& value,
                    const std::string& help);
  Option add_option(const std::string& names, int& value, const std::string& help);
  Option add_option(const std::string& names, int64_t& value, const std::string& help);
  Option add_option(const std::string& names, uint64_t& value, const std::string& help);
  Option add_option(const std::string& names, double& value, const std::string& help);
  /// @param take  given the text; may throw UsageError
  Option add_option(const std::string& names, const std::function<void(const std::string&)>& take,
                    const std::string& help);
  Option add_flag(const std::string& names, bool& value, const std::string& help);
  /// Whatever else is given is ignored.
  void allow_extras();

  CLI::App* app() const { return app_; }

 private:
  CLI::App* app_;
};

}  // namespace perceiver::cli
