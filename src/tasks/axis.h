#pragma once

#include <string>
#include <vector>

namespace perceiver::tasks {

/// One axis of a plot: where values lie on it, and its round ticks.
struct Axis {
  double low = 0, high = 1;
  bool logarithmic = false;
  std::vector<double> ticks;  ///< rising, within [low, high]

  /// 0 at `low`, 1 at `high`.
  double place(double value) const;
};

/// @param wanted  about so many ticks, at multiples of 1, 2 or 5 times a power of ten
/// @param tight   the axis ends at the values, not at the ticks around them
Axis linear_axis(double low, double high, int wanted, bool tight = false);
/// Ticks at powers of ten; over less than two of these also at 2 and 5 times them.
/// @param low  above 0
Axis logarithmic_axis(double low, double high);

/// As short as it can be read: "0.05", "2000", "20k", "3M", "1e-5".
std::string tick_text(double value);

}  // namespace perceiver::tasks
