#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// Curves of training runs as a picture. Reads what `train` logs; needs no LibTorch.

namespace perceiver::tasks {

struct CurvePoint {
  double step = 0;
  double value = 0;
};

/// One quantity of one run, steps rising.
struct Curve {
  std::string quantity;  ///< "loss", "learning_rate", ...; measurements: "test/<name>"
  std::vector<CurvePoint> points;
};

struct RunCurves {
  std::string name;           ///< for the legend
  std::vector<Curve> curves;  ///< measurements come last, in the order the log has them
  /// @return nullptr if the run has none of that name
  const Curve* find(const std::string& quantity) const;
};

/// Reads log.jsonl of a run.
/// @param run  the folder given to `train --out`, its training/ folder, or the log itself
/// @throws Error(kIo) if it is not there, Error(kFormat) if no line of it is a logged step
RunCurves read_curves(const std::filesystem::path& run);

struct PlotOptions {
  /// Quantities to draw, a panel each; empty = loss, learning_rate, gradient_norm and every
  /// measurement.
  std::vector<std::string> only;
  std::vector<std::string> logarithmic;  ///< quantities whose axis is logarithmic
};

/// An SVG picture: a panel per quantity, a colour per run, steps along the bottom.
/// @throws Error(kArgument) for a quantity that no run has (the message lists what there is), or a
///         logarithmic axis where a value is not above 0
std::string curves_svg(const std::vector<RunCurves>& runs, const PlotOptions& options);

/// The quantities curves_svg() draws.
std::vector<std::string> plotted_quantities(const std::vector<RunCurves>& runs,
                                            const PlotOptions& options);

}  // namespace perceiver::tasks
