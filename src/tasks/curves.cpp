#include "perceiver/tasks/curves.h"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/json.h"
#include "perceiver/base/str.h"

namespace perceiver::tasks {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxLogBytes = uint64_t{1} << 30;
constexpr size_t kMaxQuantities = 1000;
constexpr const char* kAlways[] = {"loss", "learning_rate", "gradient_norm"};
// Of a log line, in the order panels have; the rest is under "metrics".
constexpr const char* kLogged[] = {"loss",          "mean_loss",           "learning_rate",
                                   "gradient_norm", "examples_per_second", "step_seconds",
                                   "waiting_share", "skipped_samples"};

fs::path log_of(const fs::path& run) {
  std::error_code ignored;
  for (const fs::path& path : {run / "training" / "log.jsonl", run / "log.jsonl"}) {
    if (fs::exists(path, ignored)) {
      return path;
    }
  }
  if (fs::is_directory(run, ignored)) {
    throw Error(ErrorCode::kIo, cat(printable(run.string()), ": no training/log.jsonl in here"));
  }
  return run;
}

// A run is called as its folder, wherever in it the log was found.
std::string name_of(const fs::path& run) {
  fs::path path = fs::absolute(run).lexically_normal();
  while (path.filename().empty() || path.filename() == "log.jsonl" ||
         path.filename() == "training") {
    if (path == path.parent_path()) {
      return run.string();
    }
    path = path.parent_path();
  }
  return path.filename().string();
}

void add_point(RunCurves& run, const std::string& quantity, double step, const Json& value) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    return;
  }
  auto found = std::find_if(run.curves.begin(), run.curves.end(),
                            [&](const Curve& curve) { return curve.quantity == quantity; });
  if (found == run.curves.end()) {
    if (run.curves.size() >= kMaxQuantities) {
      return;
    }
    run.curves.push_back({quantity, {}});
    found = std::prev(run.curves.end());
  }
  found->points.push_back({step, value.get<double>()});
}

void add_line(RunCurves& run, const Json& line) {
  const auto step = line["step"].get<double>();
  for (const char* quantity : kLogged) {
    if (line.contains(quantity)) {
      add_point(run, quantity, step, line[quantity]);
    }
  }
  if (line.contains("metrics") && line["metrics"].is_object()) {
    for (const auto& [quantity, value] : line["metrics"].items()) {
      add_point(run, cat("test/", quantity), step, value);
    }
  }
}

bool is_logged(const std::string& quantity) {
  return std::find(std::begin(kLogged), std::end(kLogged), quantity) != std::end(kLogged);
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    names.push_back(name);
  }
}

}  // namespace

const Curve* RunCurves::find(const std::string& quantity) const {
  const auto found = std::find_if(curves.begin(), curves.end(),
                                  [&](const Curve& curve) { return curve.quantity == quantity; });
  return found == curves.end() ? nullptr : &*found;
}

RunCurves read_curves(const fs::path& given) {
  const fs::path path = log_of(given);
  const std::string text = read_file(path, kMaxLogBytes);
  RunCurves run;
  run.name = name_of(given);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const Json line = Json::parse(text.begin() + static_cast<int64_t>(at),
                                  text.begin() + static_cast<int64_t>(end), nullptr, false);
    // A run that is still going may have begun its last line only.
    if (line.is_object() && line.contains("step") && line["step"].is_number()) {
      add_line(run, line);
    }
    at = end + 1;
  }
  if (run.curves.empty()) {
    throw Error(ErrorCode::kFormat, cat(printable(path.string()), ": holds no logged step"));
  }
  for (Curve& curve : run.curves) {
    std::stable_sort(curve.points.begin(), curve.points.end(),
                     [](const CurvePoint& a, const CurvePoint& b) { return a.step < b.step; });
  }
  return run;
}

std::vector<std::string> plotted_quantities(const std::vector<RunCurves>& runs,
                                            const PlotOptions& options) {
  std::vector<std::string> known;
  for (const RunCurves& run : runs) {
    for (const Curve& curve : run.curves) {
      add_once(known, curve.quantity);
    }
  }
  std::vector<std::string> asked = options.only;
  asked.insert(asked.end(), options.logarithmic.begin(), options.logarithmic.end());
  for (const std::string& name : asked) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      std::string list;
      for (const std::string& each : known) {
        list += cat(list.empty() ? "" : ", ", printable(each));
      }
      throw Error(ErrorCode::kArgument,
                  cat("no run logged '", printable(name), "'; there are: ", list));
    }
  }
  if (!options.only.empty()) {
    return options.only;
  }
  std::vector<std::string> names;
  for (const char* name : kAlways) {
    if (std::find(known.begin(), known.end(), name) != known.end()) {
      names.emplace_back(name);
    }
  }
  std::copy_if(known.begin(), known.end(), std::back_inserter(names),
               [](const std::string& name) { return !is_logged(name); });
  return names;
}

}  // namespace perceiver::tasks
