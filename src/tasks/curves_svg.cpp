#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tasks/curves.h"
#include "tasks/axis.h"
#include "tasks/escape.h"

namespace perceiver::tasks {
namespace {

// Pixels.
constexpr double kPanelWidth = 470;
constexpr double kPanelHeight = 290;
constexpr double kLeft = 66, kRight = 16, kTop = 34, kBottom = 46;
constexpr double kLegendLine = 20;
constexpr double kLegendWidth = 225;
constexpr double kMargin = 10;
// More points than this per curve can't be told apart at this width.
constexpr size_t kMaxPoints = 800;
constexpr size_t kMaxDots = 40;  // so few points are also shown one by one
constexpr int kTicksAcross = 5, kTicksUp = 5;

// Okabe and Ito's colours: also told apart by people who see fewer.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#000000"};

const char* colour(size_t run) {
  return kColours[run % std::size(kColours)];
}

// What XML cannot hold is shown as printable() does.
std::string escape_printable(const std::string& text) {
  return escape(printable(text));
}

std::string pixels(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.1f", value);
  return buffer;
}

std::string text_at(double x, double y, const char* style, const std::string& text) {
  return cat("<text class=\"", style, "\" x=\"", pixels(x), "\" y=\"", pixels(y), "\">",
             escape_printable(text), "</text>\n");
}

// What the vertical axis says: the unit, where there is one.
std::string axis_title(const std::string& quantity) {
  static constexpr std::pair<const char*, const char*> kUnits[] = {
      {"loss", "nats"},
      {"gradient_norm", "before clipping"},
      {"examples_per_second", "1/s"},
      {"step_seconds", "s"},
      {"waiting_share", "share of the time"},
      {"accuracy", "share"},
      {"bits", "bits per byte"},
      {"rmse", "in the data's unit"},
      {"epe", "pixels"},
      {"psnr", "dB"}};
  for (const auto& [ending, unit] : kUnits) {
    if (quantity.ends_with(ending)) {
      return unit;
    }
  }
  return quantity;
}

struct Extent {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// Of many points those that are seen: the lowest and the highest of each of the plot's columns.
std::vector<CurvePoint> thinned(const std::vector<CurvePoint>& points) {
  if (points.size() <= kMaxPoints) {
    return points;
  }
  const size_t columns = kMaxPoints / 2;
  std::vector<CurvePoint> kept{points.front()};
  for (size_t column = 0; column < columns; ++column) {
    const auto begin = points.begin() + static_cast<int64_t>(points.size() * column / columns);
    const auto end = points.begin() + static_cast<int64_t>(points.size() * (column + 1) / columns);
    const auto by_value = [](const CurvePoint& a, const CurvePoint& b) {
      return a.value < b.value;
    };
    auto [low, high] = std::minmax_element(begin, end, by_value);
    kept.push_back(low < high ? *low : *high);
    kept.push_back(low < high ? *high : *low);
  }
  kept.push_back(points.back());
  return kept;
}

/// The part of the picture that shows one quantity of all runs.
class Panel {
 public:
  Panel(const std::vector<RunCurves>& runs, std::string quantity, bool logarithmic)
      : runs_(runs), quantity_(std::move(quantity)) {
    Extent steps;
    Extent values;
    for (const RunCurves& run : runs_) {
      for (const Curve* curve : curves_of(run)) {
        for (const CurvePoint& point : curve->points) {
          steps.take(point.step);
          values.take(point.value);
        }
      }
    }
    if (logarithmic && values.low <= 0) {
      throw Error(ErrorCode::kArgument, cat("'", printable(quantity_), "' is ", values.low,
                                            " somewhere: no logarithmic axis shows that"));
    }
    across_ = linear_axis(std::min(steps.low, 0.0), std::max(steps.high, 1.0), kTicksAcross,
                          /*tight=*/true);
    up_ = logarithmic ? logarithmic_axis(values.low, values.high)
                      : linear_axis(values.low, values.high, kTicksUp);
  }

  std::string svg(double left, double top) const {
    std::string out = cat("<g transform=\"translate(", pixels(left), ",", pixels(top), ")\">\n");
    out += text_at(kLeft, kTop - 12, "title", quantity_);
    out += grid() + labels();
    for (size_t i = 0; i < runs_.size(); ++i) {
      const std::vector<const Curve*> curves = curves_of(runs_[i]);
      for (size_t k = 0; k < curves.size(); ++k) {
        out += line(*curves[k], i, k + 1 < curves.size());
      }
    }
    return out + "</g>\n";
  }

 private:
  // Behind the moving average of the loss stands, pale, the loss itself.
  std::vector<const Curve*> curves_of(const RunCurves& run) const {
    std::vector<const Curve*> curves;
    for (const std::string& name : {quantity_, std::string("mean_") + quantity_}) {
      if (const Curve* curve = run.find(name)) {
        curves.push_back(curve);
      }
    }
    return curves;
  }

  double x(double step) const {
    return kLeft + across_.place(step) * (kPanelWidth - kLeft - kRight);
  }
  double y(double value) const {
    return kPanelHeight - kBottom - up_.place(value) * (kPanelHeight - kTop - kBottom);
  }

  std::string rule(double x1, double y1, double x2, double y2, const char* style) const {
    return cat("<line class=\"", style, "\" x1=\"", pixels(x1), "\" y1=\"", pixels(y1), "\" x2=\"",
               pixels(x2), "\" y2=\"", pixels(y2), "\"/>\n");
  }

  std::string grid() const {
    std::string out;
    const double bottom = kPanelHeight - kBottom;
    for (const double tick : across_.ticks) {
      out += rule(x(tick), kTop, x(tick), bottom, "grid");
      out += text_at(x(tick), bottom + 16, "across", tick_text(tick));
    }
    for (const double tick : up_.ticks) {
      out += rule(kLeft, y(tick), kPanelWidth - kRight, y(tick), "grid");
      out += text_at(kLeft - 6, y(tick) + 4, "up", tick_text(tick));
    }
    out += rule(kLeft, kTop, kLeft, bottom, "axis");
    return out + rule(kLeft, bottom, kPanelWidth - kRight, bottom, "axis");
  }

  std::string labels() const {
    const double middle = (kTop + kPanelHeight - kBottom) / 2;
    return text_at((kLeft + kPanelWidth - kRight) / 2, kPanelHeight - 10, "across", "step") +
           cat("<text class=\"across\" transform=\"translate(14,", pixels(middle),
               ") rotate(-90)\">", escape_printable(axis_title(quantity_)), "</text>\n");
  }

  std::string line(const Curve& curve, size_t run, bool pale) const {
    std::string points;
    std::string dots;
    for (const CurvePoint& point : thinned(curve.points)) {
      const std::string left = pixels(x(point.step));
      const std::string top = pixels(y(point.value));
      points += cat(points.empty() ? "" : " ", left, ",", top);
      dots += cat("<circle fill=\"", colour(run), "\" r=\"2.2\" cx=\"", left, "\" cy=\"", top,
                  "\"/>\n");
    }
    if (curve.points.size() == 1) {
      return dots;
    }
    return cat("<polyline class=\"", pale ? "pale" : "curve", "\" stroke=\"", colour(run),
               "\" points=\"", points, "\"><title>", escape_printable(runs_[run].name), ": ",
               escape_printable(curve.quantity), "</title></polyline>\n",
               curve.points.size() <= kMaxDots && !pale ? dots : "");
  }

  const std::vector<RunCurves>& runs_;
  std::string quantity_;
  Axis across_, up_;
};

constexpr const char* kStyle =
    "<style>text{font:12px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}"
    ".across{text-anchor:middle}.up{text-anchor:end}.grid{stroke:#e4e4e4}.axis{stroke:#888}"
    ".curve,.pale{fill:none;stroke-width:1.5;stroke-linejoin:round}"
    ".pale{stroke-width:1;stroke-opacity:.3}</style>\n";

std::string legend(const std::vector<RunCurves>& runs, size_t columns) {
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i) {
    const double x = kMargin + static_cast<double>(i % columns) * kLegendWidth;
    const double y = kMargin + static_cast<double>(i / columns) * kLegendLine + 10;
    out += cat("<line stroke=\"", colour(i), "\" stroke-width=\"3\" x1=\"", pixels(x), "\" x2=\"",
               pixels(x + 22), "\" y1=\"", pixels(y), "\" y2=\"", pixels(y), "\"/>\n");
    constexpr size_t kLongest = 26;
    const std::string& name = runs[i].name;
    out += text_at(x + 28, y + 4, "name",
                   name.size() > kLongest ? cat(name.substr(0, kLongest - 3), "...") : name);
  }
  return out;
}

}  // namespace

std::string curves_svg(const std::vector<RunCurves>& runs, const PlotOptions& options) {
  const std::vector<std::string> quantities = plotted_quantities(runs, options);
  const size_t columns = quantities.size() > 1 ? 2 : 1;
  const size_t rows = (quantities.size() + columns - 1) / columns;
  const size_t names = columns * 2;
  const double head =
      2 * kMargin + kLegendLine * static_cast<double>((runs.size() + names - 1) / names);
  const double width = kPanelWidth * static_cast<double>(columns) + kMargin;
  const double height = head + kPanelHeight * static_cast<double>(rows);
  std::string out =
      cat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", pixels(width), "\" height=\"",
          pixels(height), "\" viewBox=\"0 0 ", pixels(width), " ", pixels(height), "\">\n", kStyle,
          "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", legend(runs, names));
  for (size_t i = 0; i < quantities.size(); ++i) {
    const bool logarithmic = std::find(options.logarithmic.begin(), options.logarithmic.end(),
                                       quantities[i]) != options.logarithmic.end();
    out += Panel(runs, quantities[i], logarithmic)
               .svg(static_cast<double>(i % columns) * kPanelWidth,
                    head + static_cast<double>(i / columns) * kPanelHeight);
  }
  return out + "</svg>\n";
}

}  // namespace perceiver::tasks
