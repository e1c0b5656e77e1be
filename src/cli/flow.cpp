#include "perceiver/tasks/flow.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/flow_picture.h"

namespace perceiver::cli {
namespace {

constexpr const char* kFlowDetails =
    "Frames of any one size (PNG, JPEG, PPM) are cut into tiles of the model's size and their "
    "flows\n"
    "blended. --out decides the format by its ending: .flo (Middlebury) or .png (KITTI, 16 bit).\n"
    "--picture writes the usual colour wheel: hue is direction, saturation is speed.";

struct FlowOptions {
  ModelOptions model;
  std::string first;
  std::string second;
  std::string out;
  std::string picture;
  double max_radius = 0;
};

struct Summary {
  double mean = 0;
  double longest = 0;
};

Summary summarise(const io::Flow& flow) {
  Summary summary;
  const float* uv = flow.uv.data<float>();
  const int64_t pixels = flow.height() * flow.width();
  for (int64_t i = 0; i < pixels; ++i) {
    const double length =
        std::hypot(static_cast<double>(uv[2 * i]), static_cast<double>(uv[2 * i + 1]));
    summary.mean += length / static_cast<double>(pixels);
    summary.longest = std::max(summary.longest, length);
  }
  return summary;
}

void check(const FlowOptions& o) {
  if (o.out.empty() && o.picture.empty()) {
    throw UsageError("flow: nothing to write; give --out FILE, --picture FILE or both");
  }
  if (!o.out.empty()) {
    if (!o.out.ends_with(".flo") && !o.out.ends_with(".png")) {
      throw UsageError(cat("--out must end in .flo or .png, not '", printable(o.out), "'"));
    }
    tasks::require_writable(o.out);
  }
  if (!o.picture.empty()) {
    tasks::require_writable(o.picture);
  }
}

int run(const FlowOptions& o) {
  check(o);
  const io::Image first = io::read_image(o.first);
  const io::Image second = io::read_image(o.second);
  const tasks::Model model = tasks::open_model(o.model.model, o.model.choice);
  io::Flow flow;
  {
    ProgressBar bar;
    tasks::FlowOptions options;
    options.progress = bar.callback();
    flow = tasks::estimate_flow(model.bundle, *model.engine, first, second, options);
  }
  if (o.out.ends_with(".flo")) {
    io::write_flo(o.out, flow);
  } else if (!o.out.empty()) {
    io::write_kitti_flow(o.out, flow);
  }
  if (!o.picture.empty()) {
    io::write_png(o.picture, io::make_image(tokens::flow_picture(flow.uv, {}, {o.max_radius})));
  }
  const Summary summary = summarise(flow);
  if (output_mode().json) {
    print_json({{"width", flow.width()},
                {"height", flow.height()},
                {"mean_pixels", summary.mean},
                {"max_pixels", summary.longest},
                {"flow", o.out},
                {"picture", o.picture}});
  } else {
    std::cout << flow.width() << " x " << flow.height() << ": pixels move "
              << fixed(summary.mean, 2) << " on average, " << fixed(summary.longest, 2)
              << " at most\n";
  }
  return 0;
}

}  // namespace

void add_flow(Program& program) {
  auto o = std::make_shared<FlowOptions>();
  Verb* verb =
      program.add("flow", "Estimate how each pixel moves between two frames", kFlowDetails);
  add_model_options(verb, o->model);
  verb->add_option("first", o->first, "First frame")->type_name("FRAME1")->required();
  verb->add_option("second", o->second, "Second frame")->type_name("FRAME2")->required();
  verb->add_option("--out,-o", o->out, "Flow to write: .flo or KITTI .png")->type_name("FILE");
  verb->add_option("--picture", o->picture, "Colour picture of the flow, PNG")->type_name("FILE");
  verb->add_option("--max-radius", o->max_radius,
                   "Flow length in pixels that gets full colour; 0 = the longest")
      ->type_name("PIXELS")
      ->check(Range(0.0, 1e6));
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
