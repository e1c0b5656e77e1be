#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "perceiver/base/json.h"
#include "perceiver/base/progress.h"

// Results go to stdout, everything else to stderr.

namespace perceiver::cli {

/// What --json and --quiet said.
struct OutputMode {
  bool json = false;
  bool quiet = false;
};
OutputMode& output_mode();

/// Writes `value` to stdout as indented JSON.
void print_json(const Json& value);

/// The same on one line, at once: one of many.
void print_json_line(const Json& value);

/// A line on stderr, unless --quiet.
void note(const std::string& line);

/// Flushes stdout. @throws Error(kIo) when something printed got lost (full disk)
void finish_output();

/// Rows of cells, columns aligned by width as shown. Numbers are right-aligned when `right` says
/// so.
class Table {
 public:
  explicit Table(std::vector<std::string> header, std::vector<bool> right = {});
  void add(std::vector<std::string> row);
  std::string text(const std::string& indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

/// A line on stderr that redraws itself: only on a terminal, and only once work has lasted a
/// moment. The time left is judged by the work done since this bar first heard of it.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void show(const Progress& progress);
  /// A line that stays, as note() prints it, with the bar out of its way.
  void note(const std::string& line);
  void finish() { clear(); }
  ProgressFn callback() {
    return [this](const Progress& progress) { show(progress); };
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Begin {
    Clock::time_point time;
    int64_t done = 0, last = 0;
  };
  /// "3 min", or "" while there is nothing to judge by.
  std::string time_left(const Progress& progress, Clock::time_point now);
  void clear();
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
  std::map<std::string, Begin> begins_;  // by Progress::what
};

/// 4000 -> "1 h 7 min", 130 -> "2 min 10 s", 12 -> "12 s"
std::string duration(double seconds);
/// 1234567 -> "1,234,567"
std::string grouped(int64_t value);
/// 1.887e12 -> "1.89 T"
std::string metric(double value);
/// 536870912 -> "512 MiB"
std::string byte_size(double bytes);
/// 0.98765 -> "98.8 %"
std::string percent(double share);
/// `value` with `digits` decimals.
std::string fixed(double value, int digits);

}  // namespace perceiver::cli
