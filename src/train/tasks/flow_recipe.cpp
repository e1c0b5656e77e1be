#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/tasks/flow_task.h"

// The keys of an optical_flow recipe; docs/flow.md lists them.

namespace perceiver::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxExamples = 1 << 24;
constexpr int64_t kMaxSide = 1 << 13;
constexpr double kManyPixels = 1e5;

std::vector<std::string> words(Fields& fields, const std::string& key,
                               std::vector<std::string> fallback) {
  if (!fields.has(key)) {
    return fallback;
  }
  const Json& list = fields.at(key);
  std::vector<std::string> found;
  bool fits = list.is_array() && !list.empty();
  for (size_t i = 0; fits && i < list.size(); ++i) {
    fits = list[i].is_string();
    if (fits) {
      found.push_back(list[i].get<std::string>());
    }
  }
  if (!fits) {
    throw Error(ErrorCode::kFormat, cat(fields.where(key), " must be a list of names"));
  }
  return found;
}

void read_scene(Fields& fields, const fs::path& folder, FlowSource& source) {
  FlowSceneSpec& scene = source.scene;
  fields.at("examples");
  source.examples = fields.integer("examples", 0, 1, kMaxExamples);
  scene.height = fields.integer("height", 0, 8, kMaxSide);
  scene.width = fields.integer("width", 0, 8, kMaxSide);
  scene.layers = fields.integer("layers", scene.layers, 0, 64);
  scene.shift = fields.number("shift", scene.shift, 0, kManyPixels);
  scene.rotation = fields.number("rotation", scene.rotation, 0, 180);
  scene.scale = fields.number("scale", scene.scale, 0, 1);
  scene.bend = fields.number("bend", scene.bend, 0, kManyPixels);
  scene.samples = fields.integer("samples", scene.samples, 1, 8);
  if (fields.has("pictures")) {
    source.pictures = existing_folder(fields, "pictures", folder);
  }
}

void read_sintel(Fields& fields, FlowSource& source) {
  source.passes = words(fields, "passes", {"clean", "final"});
  for (const std::string& pass : source.passes) {
    if (pass != "clean" && pass != "final") {
      throw Error(ErrorCode::kFormat, cat(fields.where("passes"), " has '", printable(pass, 40),
                                          "', must be of: clean, final"));
    }
  }
  source.scenes = words(fields, "scenes", {});
  source.without_scenes = words(fields, "without_scenes", {});
}

FlowSource read_source(Fields fields, const fs::path& folder) {
  const std::vector<std::string> kLayouts{"generated", "sintel", "flying_chairs", "kitti", "list"};
  FlowSource source;
  source.where = fields.where("");
  source.where.pop_back();  // the dot
  fields.at("layout");
  const size_t layout = fields.choice("layout", 0, kLayouts);
  source.layout = static_cast<FlowLayout>(layout);
  source.name = fields.text("name", kLayouts[layout]);
  source.repeat = fields.integer("repeat", 1, 1, 1 << 20);
  switch (source.layout) {
    case FlowLayout::kGenerated:
      read_scene(fields, folder, source);
      break;
    case FlowLayout::kList:
      source.path = existing_file(fields, "path", folder);
      break;
    default:
      source.path = existing_folder(fields, "path", folder);
  }
  if (source.layout == FlowLayout::kSintel) {
    read_sintel(fields, source);
  }
  if (source.layout == FlowLayout::kFlyingChairs && fields.has("split_file")) {
    source.split_file = existing_file(fields, "split_file", folder);
    source.split = static_cast<int>(fields.integer("split", 1, 1, 2));
  }
  fields.finish();
  return source;
}

std::vector<FlowSource> read_sources(Fields& fields, const std::string& key,
                                     const fs::path& folder) {
  const Json& list = fields.at(key);
  if (!list.is_array() || list.empty()) {
    throw Error(ErrorCode::kFormat, cat(fields.where(key), " must be a list of {\"layout\": ...}"));
  }
  std::vector<FlowSource> sources;
  for (size_t i = 0; i < list.size(); ++i) {
    sources.push_back(read_source(Fields(list[i], cat(fields.where(key), "[", i, "]")), folder));
  }
  return sources;
}

// [minimum, maximum] of `key`.
void read_range(Fields& fields, const std::string& key, double lowest, double highest,
                double& minimum, double& maximum) {
  if (!fields.has(key)) {
    return;
  }
  const Json& json = fields.at(key);
  const bool pair =
      json.is_array() && json.size() == 2 && json[0].is_number() && json[1].is_number();
  if (!pair ||
      !(json[0].get<double>() >= lowest && json[0].get<double>() <= json[1].get<double>() &&
        json[1].get<double>() <= highest)) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where(key), " must be [minimum, maximum] between ", lowest, " and ",
                    highest, ", is ", printable(json.dump(), 60)));
  }
  minimum = json[0].get<double>();
  maximum = json[1].get<double>();
}

FlowAugmentSpec read_augment(Fields fields) {
  FlowAugmentSpec augment;
  augment.brightness = fields.number("brightness", 0, 0, 1);
  augment.contrast = fields.number("contrast", 0, 0, 1);
  augment.saturation = fields.number("saturation", 0, 0, 1);
  augment.hue = fields.number("hue", 0, 0, 0.5);
  augment.asymmetric = fields.number("asymmetric", 0, 0, 1);
  augment.eraser = fields.number("eraser", 0, 0, 1);
  read_range(fields, "eraser_size", 1, kManyPixels, augment.eraser_min, augment.eraser_max);
  read_range(fields, "scale", -4, 4, augment.scale_min, augment.scale_max);
  augment.scale_probability = fields.number("scale_probability", fields.has("scale") ? 1 : 0, 0, 1);
  augment.stretch = fields.number("stretch", 0, 0, 2);
  augment.stretch_probability =
      fields.number("stretch_probability", augment.stretch > 0 ? 1 : 0, 0, 1);
  augment.flip_horizontal = fields.number("flip_horizontal", 0, 0, 1);
  augment.flip_vertical = fields.number("flip_vertical", 0, 0, 1);
  fields.finish();
  return augment;
}

std::vector<FlowPhase> read_phases(Fields& fields) {
  if (!fields.has("phases")) {
    return {FlowPhase{}};
  }
  const Json& list = fields.at("phases");
  if (!list.is_array() || list.empty()) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("phases"), " must be a list of {\"until\": step, ...}"));
  }
  std::vector<FlowPhase> phases;
  int64_t before = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    Fields phase(list[i], cat(fields.where("phases"), "[", i, "]"));
    FlowPhase& added = phases.emplace_back();
    const bool last = i + 1 == list.size();
    if (last && phase.has("until")) {
      throw Error(ErrorCode::kFormat,
                  cat(phase.where("until"), ": the last phase goes on to the end of the run"));
    }
    if (!last) {
      phase.at("until");
      added.until = phase.integer("until", 0, before + 1, int64_t{1} << 40);
      before = added.until;
    }
    added.reversed = phase.boolean("reversed", false);
    added.augment = read_augment(phase.object("augment"));
    phase.finish();
  }
  return phases;
}

FlowLossSpec read_loss(Fields fields) {
  constexpr FlowLossKind kKinds[] = {FlowLossKind::kEndPoint, FlowLossKind::kL1,
                                     FlowLossKind::kRobust};
  FlowLossSpec loss;
  loss.kind = kKinds[fields.choice("kind", 0, {"end_point", "l1", "robust"})];
  if (loss.kind == FlowLossKind::kRobust) {
    loss.epsilon = fields.number("epsilon", loss.epsilon, 1e-9, 100);
    loss.exponent = fields.number("exponent", loss.exponent, 0.01, 1);
  }
  loss.max_flow = fields.number("max_flow", loss.max_flow, 1e-3, 1e9);
  loss.occluded = fields.boolean("occluded", true);
  fields.finish();
  return loss;
}

}  // namespace

std::shared_ptr<const TaskRecipe> read_flow_recipe(Fields& fields, const fs::path& folder) {
  auto recipe = std::make_shared<FlowRecipe>();
  Fields data = fields.object("data");
  recipe->train = read_sources(data, "train", folder);
  recipe->test = read_sources(data, "test", folder);
  recipe->crop =
      data.choice("crop", 0, {"random", "middle"}) == 0 ? CropPlace::kRandom : CropPlace::kMiddle;
  data.finish();
  recipe->phases = read_phases(fields);
  recipe->loss = read_loss(fields.object("loss"));
  recipe->points = fields.integer("points", 0, 0, int64_t{1} << 32);
  return recipe;
}

}  // namespace perceiver::train
