#include "perceiver/tasks/demo.h"

#include <algorithm>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver::cli {
namespace {

constexpr const char* kDemoDetails =
    "The two shipped models, an image classifier and a byte-level masked language model, on "
    "samples\n"
    "they were not trained on. Also writes a page to look at.";

struct DemoOptions {
  std::string models;
  std::string page = "perceiver-demo.html";
  tasks::EngineChoice choice;
};

Json classes_json(const std::vector<tasks::Ranked>& classes) {
  Json json = Json::array();
  for (const tasks::Ranked& ranked : classes) {
    json.push_back({{"label", ranked.label}, {"probability", ranked.probability}});
  }
  return json;
}

Json pictures_json(const std::vector<tasks::DemoPicture>& pictures) {
  Json json = Json::array();
  for (const tasks::DemoPicture& shown : pictures) {
    json.push_back({{"truth", shown.truth},
                    {"caption", shown.caption},
                    {"classes", classes_json(shown.answer.classes)}});
  }
  return json;
}

Json to_json(const tasks::DemoReport& report, const std::string& page) {
  Json lines = Json::array();
  for (const tasks::DemoLine& line : report.lines) {
    lines.push_back(
        {{"text", line.original}, {"hidden", line.hidden}, {"filled", line.filled.filled}});
  }
  return {{"pictures", pictures_json(report.pictures)},
          {"turned", pictures_json(report.turned)},
          {"noisy", pictures_json(report.noisy)},
          {"lines", lines},
          {"seconds", report.seconds},
          {"page", page}};
}

// Two characters per sample, so that a digit keeps its shape on a terminal.
std::string as_text(const io::Image& picture) {
  constexpr const char* kShades[] = {"  ", "░░", "▒▒", "▓▓", "██"};
  constexpr int64_t kRows = 14;
  const io::Image source = io::to_8_bit(picture);
  const int64_t step = std::max<int64_t>(1, source.height() / kRows);
  std::string out;
  for (int64_t y = 0; y + step <= source.height(); y += step) {
    out += "    ";
    for (int64_t x = 0; x + step <= source.width(); x += step) {
      int64_t sum = 0;
      for (int64_t i = 0; i < step * step; ++i) {
        sum += source.pixels.data<uint8_t>()[((y + i / step) * source.width() + x + i % step) *
                                             source.channels()];
      }
      out += kShades[std::min<int64_t>(4, sum * 5 / (255 * step * step + 1))];
    }
    out += "\n";
  }
  return out;
}

void print_strip(const char* title, const std::vector<tasks::DemoPicture>& pictures) {
  std::cout << title;
  for (const tasks::DemoPicture& shown : pictures) {
    std::cout << " " << (shown.answer.classes.empty() ? "?" : shown.answer.classes[0].label);
  }
  std::cout << "\n";
}

void print(const tasks::DemoReport& report) {
  std::cout << "PICTURES  (" << report.image_model.summary << ")\n\n";
  if (!report.pictures.empty()) {
    std::cout << as_text(report.pictures[report.pictures.size() / 2].picture) << "\n";
  }
  for (const tasks::DemoPicture& shown : report.pictures) {
    const tasks::Ranked& best = shown.answer.classes.at(0);
    std::cout << "  saw a drawn " << shown.truth << ", answers " << best.label << "  "
              << percent(best.probability) << (shown.right() ? "" : "   <- wrong") << "\n";
  }
  if (!report.turned.empty()) {
    std::cout << "\n";
    print_strip(cat("  a ", report.turned[0].truth, ", turned in steps of 20 degrees: ").c_str(),
                report.turned);
    print_strip(cat("  a ", report.noisy[0].truth, ", under more and more noise:    ").c_str(),
                report.noisy);
  }
  std::cout << "\nTEXT  (" << report.text_model.summary << ")\n\n";
  for (const tasks::DemoLine& line : report.lines) {
    std::string blanked = line.filled.given;
    for (size_t at = blanked.find("[MASK]"); at != std::string::npos; at = blanked.find("[MASK]")) {
      blanked.replace(at, 6, "_");
    }
    std::cout << "  saw      " << blanked << "\n  answers  " << line.filled.filled << "\n\n";
  }
}

int run(const DemoOptions& o) {
  const std::string folder = o.models.empty() ? models_folder() : o.models;
  if (!o.page.empty()) {
    tasks::require_writable(o.page);
  }
  tasks::DemoReport report;
  {
    ProgressBar bar;
    report = tasks::run_demo(folder, o.choice, bar.callback());
  }
  if (!o.page.empty()) {
    write_file_atomically(o.page, tasks::demo_page(report));
  }
  if (output_mode().json) {
    print_json(to_json(report, o.page));
    return 0;
  }
  print(report);
  if (!o.page.empty()) {
    std::cout << "Pictures, probabilities and attention: open " << o.page << " in a browser.\n";
  }
  return 0;
}

}  // namespace

void add_demo(Program& program) {
  auto o = std::make_shared<DemoOptions>();
  Verb* verb = program.add("demo", "See it work: shipped models, samples, a page", kDemoDetails);
  verb->add_option("--models", o->models, "Folder of the shipped models and samples")
      ->type_name("DIR");
  verb->add_option("--page", o->page, "HTML page to write; empty for none")
      ->type_name("FILE")
      ->capture_default_str();
  add_engine_options(verb, o->choice);
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
