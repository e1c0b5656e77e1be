#include <cmath>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/io/video.h"
#include "perceiver/tasks/video.h"

namespace perceiver::cli {
namespace {

constexpr const char* kAutoencodeDetails =
    "Reads a film (MP4, MOV, AVI) and its sound, squeezes both into the latents, writes what comes "
    "back\n"
    "as an MP4 and reports how close it is and what the model takes it for. The released model "
    "sees 16\n"
    "frames of 224 x 224 at 25 per second and 0.64 s of sound at 48 kHz.";

struct AutoencodeOptions {
  ModelOptions model;
  std::string in;
  std::string out;
  tasks::ReadClipOptions clip;
  tasks::AutoencodeOptions decode;
};

// JSON has no infinity.
Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

void report(const AutoencodeOptions& o, const tasks::Clip& clip,
            const tasks::Reconstruction& made) {
  if (output_mode().json) {
    Json classes = Json::array();
    for (const tasks::Ranked& ranked : made.classes) {
      classes.push_back(
          {{"index", ranked.index}, {"label", ranked.label}, {"probability", ranked.probability}});
    }
    print_json({{"input", o.in},
                {"output", o.out},
                {"frames", made.frames.size(0)},
                {"has_audio", clip.has_audio},
                {"video_psnr", number_or_null(made.video_psnr)},
                {"audio_psnr", number_or_null(made.audio_psnr)},
                {"classes", classes}});
    return;
  }
  std::cout << o.out << ": " << made.frames.size(0) << " frames, video PSNR "
            << fixed(made.video_psnr, 2) << " dB, sound PSNR " << fixed(made.audio_psnr, 2)
            << " dB\n";
  for (const tasks::Ranked& ranked : made.classes) {
    std::cout << "  " << percent(ranked.probability) << "  " << ranked.label << "\n";
  }
}

int run(const AutoencodeOptions& o) {
  tasks::require_writable(o.out);
  const tasks::Clip clip = tasks::read_clip(tasks::load_spec(o.model.model), o.in, o.clip);
  if (!clip.has_audio) {
    note(o.in + ": has no sound; the model hears silence");
  }
  const tasks::Model model = tasks::open_model(o.model.model, o.model.choice);
  tasks::Reconstruction made;
  {
    ProgressBar bar;
    tasks::AutoencodeOptions options = o.decode;
    options.progress = bar.callback();
    made = tasks::autoencode(model.bundle, *model.engine, clip, options);
  }
  io::write_mp4(o.out, made.frames, o.clip.frames_per_second, made.audio);
  report(o, clip, made);
  return 0;
}

}  // namespace

void add_autoencode(Program& program) {
  auto o = std::make_shared<AutoencodeOptions>();
  Verb* verb = program.add("autoencode", "Send a film and its sound through the latents and back",
                           kAutoencodeDetails);
  add_model_options(verb, o->model);
  verb->add_option("in", o->in, "Film to read")->type_name("FILM")->required();
  verb->add_option("--out,-o", o->out, "MP4 to write")->type_name("FILE")->required();
  verb->add_option("--start", o->clip.start_seconds, "Second of the film to begin at")
      ->type_name("SECONDS")
      ->check(Range(0.0, 1e7));
  verb->add_option("--fps", o->clip.frames_per_second, "Frames per second to read and write")
      ->type_name("RATE")
      ->capture_default_str()
      ->check(Range(0.1, 1000.0));
  verb->add_option("--chunks", o->decode.chunks, "Decode in so many parts")
      ->type_name("N")
      ->capture_default_str()
      ->check(Range(1, 1000000));
  verb->add_flag("--whole-grid", o->decode.whole_grid,
                 "Ask for whole grids, not for indices (docs/quirks.md)");
  verb->add_option("--top", o->decode.top, "Classes shown")
      ->type_name("K")
      ->capture_default_str()
      ->check(Range(0, 100000));
  program.on(verb, [o] { return run(*o); });
}

}  // namespace perceiver::cli
