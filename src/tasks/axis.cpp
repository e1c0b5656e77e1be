#include "tasks/axis.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace perceiver::tasks {
namespace {

// The round number next above `rough`: 1, 2 or 5 times a power of ten.
double round_step(double rough) {
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power * (1 + 1e-9)) {
      return factor * power;
    }
  }
  return 10 * power;
}

std::string shortest(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.4g", value);
  return buffer;
}

}  // namespace

double Axis::place(double value) const {
  if (logarithmic) {
    return std::log(value / low) / std::log(high / low);
  }
  return (value - low) / (high - low);
}

Axis linear_axis(double low, double high, int wanted, bool tight) {
  const double least = std::max({std::abs(low), std::abs(high), 1e-300}) * 1e-9;
  if (high - low < least) {  // a flat line lies in the middle
    const double margin = low == 0 ? 1 : std::abs(low) / 2;
    low -= margin;
    high += margin;
  }
  const double step = round_step((high - low) / wanted);
  Axis axis;
  axis.low = tight ? low : std::floor(low / step + 1e-9) * step;
  axis.high = tight ? high : std::ceil(high / step - 1e-9) * step;
  const auto first = std::llround(std::ceil(axis.low / step - 1e-9));
  const auto last = std::llround(std::floor(axis.high / step + 1e-9));
  for (auto i = first; i <= last; ++i) {
    axis.ticks.push_back(static_cast<double>(i) * step);
  }
  return axis;
}

Axis logarithmic_axis(double low, double high) {
  Axis axis;
  axis.logarithmic = true;
  if (high <= low * (1 + 1e-9)) {
    high = 2 * low;
    low /= 2;
  }
  const bool few = high / low < 100;
  const auto first = static_cast<int>(std::floor(std::log10(low)));
  const auto last = static_cast<int>(std::ceil(std::log10(high)));
  std::vector<double> round;
  for (int power = first; power <= last; ++power) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (few || factor == 1) {
        round.push_back(factor * std::pow(10, power));
      }
    }
  }
  // From the tick at or below the lowest value to the one at or above the highest.
  auto from = std::upper_bound(round.begin(), round.end(), low * (1 + 1e-9));
  from = from == round.begin() ? from : std::prev(from);
  auto to = std::lower_bound(from, round.end(), high * (1 - 1e-9));
  to = to == round.end() ? to : std::next(to);
  axis.ticks.assign(from, to);
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e4 && size < 1e12) {
    const double unit = size >= 1e9 ? 1e9 : size >= 1e6 ? 1e6 : 1e3;
    return shortest(value / unit) + (unit == 1e9 ? "G" : unit == 1e6 ? "M" : "k");
  }
  if (size > 0 && size < 1e-3) {  // "2e-05" -> "2e-5"
    std::string text = shortest(value);
    const size_t exponent = text.find("e-0");
    return exponent == std::string::npos ? text : text.erase(exponent + 2, 1);
  }
  return shortest(value);
}

}  // namespace perceiver::tasks
