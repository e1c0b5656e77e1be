#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tasks/curves.h"

namespace perceiver::cli {
namespace {

constexpr const char* kPlotDetails =
    "Draws what training logged: loss, learning rate, gradient norm and measurements over steps,\n"
    "one colour per run. Runs that are still going can be drawn too.\n"
    "  perceiver plot runs/a runs/b --log loss --out curves.svg";

struct PlotOptions {
  std::vector<std::string> runs;
  std::string out = "curves.svg";
  tasks::PlotOptions plot;
};

// Runs of one folder name are told apart by as much of their paths as was given.
void tell_apart(std::vector<tasks::RunCurves>& runs, const std::vector<std::string>& given) {
  std::vector<std::string> names;
  for (size_t i = 0; i < runs.size(); ++i) {
    bool alone = true;
    for (size_t k = 0; k < runs.size(); ++k) {
      alone = alone && (k == i || runs[k].name != runs[i].name);
    }
    names.push_back(alone ? runs[i].name : given[i]);
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i].name = names[i];
  }
}

int run_plot(const PlotOptions& options) {
  tasks::require_writable(options.out);
  std::vector<tasks::RunCurves> runs;
  runs.reserve(options.runs.size());
  for (const std::string& run : options.runs) {
    runs.push_back(tasks::read_curves(run));
  }
  tell_apart(runs, options.runs);
  write_file_atomically(options.out, tasks::curves_svg(runs, options.plot));
  const std::vector<std::string> drawn = tasks::plotted_quantities(runs, options.plot);
  if (output_mode().json) {
    print_json({{"out", options.out}, {"runs", options.runs}, {"quantities", drawn}});
    return 0;
  }
  std::string list;
  for (const std::string& name : drawn) {
    list += cat(list.empty() ? "" : ", ", printable(name));
  }
  std::cout << options.out << ": " << list << "\n";
  return 0;
}

}  // namespace

void add_plot(Program& program) {
  auto options = std::make_shared<PlotOptions>();
  Verb* verb = program.add("plot", "Draw the curves of training runs", kPlotDetails);
  verb->add_option("runs", options->runs, "Folders given to train --out, or log.jsonl files")
      ->type_name("RUN...")
      ->required();
  verb->add_option("--out,-o", options->out, "SVG picture to write")
      ->type_name("FILE")
      ->capture_default_str();
  verb->add_option("--only", options->plot.only, "Draw this quantity alone; may be repeated")
      ->type_name("NAME")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--log", options->plot.logarithmic,
                   "Draw this quantity on a logarithmic axis; may be repeated")
      ->type_name("NAME")
      ->take_all()
      ->allow_extra_args(false);
  program.on(verb, [options] { return run_plot(*options); });
}

}  // namespace perceiver::cli
