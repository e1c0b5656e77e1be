#include "cli/output.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::cli {
namespace {

constexpr auto kFirstDraw = std::chrono::milliseconds(700);
constexpr auto kRedraw = std::chrono::milliseconds(100);

// Columns a UTF-8 text takes, one per code point: enough for the tables printed here.
size_t shown_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

std::string scaled(double value, double step, const std::array<const char*, 6>& units) {
  size_t unit = 0;
  while (std::abs(value) >= step && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  const int digits = unit == 0 || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return cat(fixed(value, digits), units[unit]);
}

}  // namespace

OutputMode& output_mode() {
  static OutputMode mode;
  return mode;
}

void print_json(const Json& value) {
  std::cout << value.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

void print_json_line(const Json& value) {
  std::cout << value.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

void note(const std::string& line) {
  if (!output_mode().quiet) {
    std::cerr << line << '\n';
  }
}

void finish_output() {
  errno = 0;
  if (!std::cout.flush()) {
    throw Error(ErrorCode::kIo,
                cat("standard output: ", errno != 0 ? std::strerror(errno) : "cannot be written"));
  }
}

Table::Table(std::vector<std::string> header, std::vector<bool> right) : right_(std::move(right)) {
  right_.resize(header.size(), false);
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  row.resize(right_.size());
  rows_.push_back(std::move(row));
}

std::string Table::text(const std::string& indent) const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], shown_width(row[i]));
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line = indent;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - shown_width(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (right_[i] ? space + row[i] : row[i] + space);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    if (!line.empty()) {
      out += line + "\n";
    }
  }
  return out;
}

ProgressBar::ProgressBar()
    : enabled_(!output_mode().quiet && ::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  clear();
}

void ProgressBar::clear() {
  if (drawn_) {
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }
}

void ProgressBar::note(const std::string& line) {
  clear();
  cli::note(line);
}

std::string ProgressBar::time_left(const Progress& progress, Clock::time_point now) {
  const auto [found, is_new] = begins_.try_emplace(progress.what, Begin{now, progress.done, 0});
  Begin& begin = found->second;
  if (progress.done < begin.last) {  // the same kind of work once more
    begin = {now, progress.done, 0};
  }
  begin.last = progress.done;
  const int64_t done = progress.done - begin.done;
  if (done <= 0 || progress.done >= progress.total) {
    return "";
  }
  const double spent = std::chrono::duration<double>(now - begin.time).count();
  return duration(spent * static_cast<double>(progress.total - progress.done) /
                  static_cast<double>(done));
}

void ProgressBar::show(const Progress& progress) {
  const auto now = Clock::now();
  const std::string left = enabled_ ? time_left(progress, now) : "";
  if (!enabled_ || now - start_ < kFirstDraw || (drawn_ && now - last_ < kRedraw)) {
    return;
  }
  last_ = now;
  std::string line = progress.what;
  if (progress.total > 0) {
    constexpr int kWidth = 30;
    const double share = std::clamp(
        static_cast<double>(progress.done) / static_cast<double>(progress.total), 0.0, 1.0);
    const int filled = static_cast<int>(share * kWidth);
    line += " [" + std::string(static_cast<size_t>(filled), '#') +
            std::string(static_cast<size_t>(kWidth - filled), '.') + "] " +
            cat(progress.done, "/", progress.total);
    line += left.empty() ? "" : cat("  ", left, " left");
  } else {
    line += cat(" ", progress.done);
  }
  if (!progress.note.empty()) {
    line += "  " + progress.note;
  }
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e12)));
  if (whole >= 3600) {
    return cat(whole / 3600, " h ", whole % 3600 / 60, " min");
  }
  return whole >= 60 ? cat(whole / 60, " min ", whole % 60, " s") : cat(whole, " s");
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

std::string metric(double value) {
  return scaled(value, 1000, {"", " k", " M", " G", " T", " P"});
}

std::string byte_size(double bytes) {
  return scaled(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

std::string percent(double share) {
  return fixed(100 * share, 1) + " %";
}

std::string fixed(double value, int digits) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, value);
  return buffer.data();
}

}  // namespace perceiver::cli
