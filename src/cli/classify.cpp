#include <filesystem>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "cli/texts.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/audio.h"
#include "perceiver/io/image.h"
#include "perceiver/tasks/image.h"
#include "perceiver/tasks/sound.h"
#include "perceiver/tasks/text.h"

namespace perceiver::cli {
namespace {

constexpr const char* kClassifyDetails =
    "The model decides: for one that reads pictures, INPUT is a PNG, JPEG or PPM file; for one "
    "that\n"
    "hears sounds, a WAV, FLAC, Ogg or MP3 file or a film; for one that reads text, the text "
    "itself,\n"
    "or '-' for one text per line of standard input.\n"
    "Without --model: handwritten digits, light on dark (--invert for dark on light).";

struct ClassifyOptions {
  ModelOptions model;
  std::vector<std::string> inputs;
  std::string attention;
  int64_t top = 5;
  int64_t windows = 1;
  bool invert = false;
};

Json to_json(const std::string& input, const std::vector<tasks::Ranked>& classes) {
  Json json = Json::array();
  for (const tasks::Ranked& ranked : classes) {
    json.push_back({{"index", ranked.index},
                    {"label", ranked.label},
                    {"probability", ranked.probability},
                    {"logit", ranked.logit}});
  }
  return {{"input", input}, {"classes", json}};
}

void print(const std::string& input, const std::vector<tasks::Ranked>& classes) {
  std::cout << input << "\n";
  Table table({"", ""}, {true, false});
  for (const tasks::Ranked& ranked : classes) {
    table.add({percent(ranked.probability), ranked.label});
  }
  std::cout << table.text("  ");
}

io::Image inverted(const io::Image& picture) {
  const io::Image rgb = io::to_rgb(picture);
  Array out = rgb.pixels.clone();
  uint8_t* value = out.mutable_data<uint8_t>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    value[i] = static_cast<uint8_t>(255 - value[i]);
  }
  return io::make_image(out);
}

std::vector<tasks::Ranked> classify_picture(const tasks::Model& model, const ClassifyOptions& o,
                                            const std::string& path) {
  io::Image picture = io::read_image(path);
  tasks::ClassifyImageOptions options;
  options.top = o.top;
  options.attention = !o.attention.empty();
  const tasks::ImageAnswer answer = tasks::classify_image(
      model.bundle, *model.engine, o.invert ? inverted(picture) : picture, options);
  if (options.attention) {
    io::write_png(o.attention, tasks::attention_picture(answer));
  }
  return answer.classes;
}

void check(const ClassifyOptions& o, const ModelSpec& spec, const std::string& folder) {
  const bool picture = tasks::is_image_classifier(spec);
  const bool sound = tasks::is_sound_classifier(spec);
  if (!picture && !sound && !tasks::is_text_classifier(spec)) {
    throw Error(ErrorCode::kArgument,
                cat(folder, ": this model classifies neither pictures nor sounds nor text"));
  }
  if (!o.attention.empty()) {
    if (!picture || o.inputs.size() != 1) {
      throw UsageError("--attention shows one picture: give exactly one");
    }
    tasks::require_writable(o.attention);
  }
  if (!picture && o.invert) {
    throw UsageError("--invert is for pictures");
  }
  if (!sound && o.windows != 1) {
    throw UsageError("--windows is for sounds");
  }
}

std::vector<tasks::Ranked> classify(const tasks::Model& model, const ClassifyOptions& o,
                                    const std::string& input) {
  if (tasks::is_text_classifier(model.bundle.spec)) {
    return tasks::classify_text(model.bundle, *model.engine, input, o.top);
  }
  if (tasks::is_sound_classifier(model.bundle.spec)) {
    return tasks::classify_sound(model.bundle, *model.engine, io::read_audio(input),
                                 {o.top, o.windows});
  }
  return classify_picture(model, o, input);
}

int run(const ClassifyOptions& o) {
  const std::string folder =
      o.model.model.empty() ? embedded_model("mnist-perceiver") : o.model.model;
  const ModelSpec spec = tasks::load_spec(folder);
  check(o, spec, folder);
  const bool text = tasks::is_text_classifier(spec);
  const std::vector<std::string> inputs = text ? read_texts(o.inputs) : o.inputs;
  for (const std::string& input : inputs) {
    if (!text && !std::filesystem::exists(input)) {
      throw Error(ErrorCode::kIo, cat(input, ": No such file or directory"));
    }
  }
  const tasks::Model model = tasks::open_model(folder, o.model.choice);
  ProgressBar bar;
  Json json = Json::array();
  int64_t done = 0;
  for (const std::string& input : inputs) {
    const std::vector<tasks::Ranked> classes = classify(model, o, input);
    if (output_mode().json) {
      json.push_back(to_json(input, classes));
    } else {
      print(input, classes);
    }
    bar.show({"classify", ++done, static_cast<int64_t>(inputs.size()), ""});
  }
  if (output_mode().json) {
    print_json({{"model", folder}, {"results", json}});
  }
  return 0;
}

}  // namespace

void add_classify(Program& program) {
  auto o = std::make_shared<ClassifyOptions>();
  Verb* verb =
      program.add("classify", "Say what a picture, a sound or a text is", kClassifyDetails);
  add_model_options(verb, o->model, "mnist-perceiver");
  verb->add_option("input", o->inputs, "Picture files, sound files or texts")
      ->type_name("INPUT")
      ->required();
  verb->add_option("--top", o->top, "Classes shown")
      ->type_name("K")
      ->capture_default_str()
      ->check(Range(1, 100000));
  verb->add_option("--windows", o->windows, "Parts of a long sound that are averaged")
      ->type_name("K")
      ->capture_default_str()
      ->check(Range(1, 100000));
  verb->add_option("--attention", o->attention, "Write where the model looked, as a PNG")
      ->type_name("FILE");
  verb->add_flag("--invert", o->invert, "Swap light and dark first");
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
