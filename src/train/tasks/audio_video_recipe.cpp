#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/tasks/audio_video_task.h"

namespace perceiver::train {
namespace {

constexpr int64_t kDefaultCacheMib = 1024;
constexpr int64_t kMaxExamples = int64_t{1} << 24;

GeneratedFilmsSpec read_generated(Fields fields) {
  GeneratedFilmsSpec spec;
  spec.train_examples = fields.integer("train_examples", spec.train_examples, 1, kMaxExamples);
  spec.test_examples = fields.integer("test_examples", spec.test_examples, 1, kMaxExamples);
  spec.presence = fields.number("presence", spec.presence, 0, 1);
  spec.noise = fields.number("noise", spec.noise, 0, 1);
  fields.finish();
  return spec;
}

AudioVideoDataSpec read_films(Fields fields, const std::filesystem::path& folder) {
  AudioVideoDataSpec data;
  const bool generated = fields.has("generated");
  const bool files = fields.has("folder");
  if (generated == files) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("folder"), ": give either a folder of films or generated ones"));
  }
  if (generated) {
    data.generated = read_generated(fields.object("generated"));
  } else {
    data.files = read_labelled_files(fields, folder, {"mp4", "mov", "m4v", "avi"});
    data.train_clips = fields.integer("train_clips", data.train_clips, 1, 1 << 20);
    data.test_clips = fields.integer("test_clips", data.test_clips, 1, 1024);
    data.cache_bytes = fields.integer("cache_mib", kDefaultCacheMib, 0, 1 << 24) << 20;
  }
  data.classes = read_classes(fields, folder);
  data.frames_per_second = fields.number("frames_per_second", data.frames_per_second, 0.01, 1e4);
  data.sample_rate = static_cast<int>(fields.integer("sample_rate", data.sample_rate, 1, 768000));
  fields.finish();
  return data;
}

std::optional<double> optional_number(Fields& fields, const std::string& key, double maximum) {
  return fields.has(key) ? std::optional(fields.number(key, 0, 0, maximum)) : std::nullopt;
}

}  // namespace

std::shared_ptr<const TaskRecipe> read_audio_video_recipe(Fields& fields,
                                                          const std::filesystem::path& folder) {
  auto recipe = std::make_shared<AudioVideoRecipe>();
  recipe->data = read_films(fields.object("data"), folder);
  Fields loss = fields.object("loss");
  recipe->video.weight = optional_number(loss, "video", 1e12);
  recipe->audio.weight = optional_number(loss, "audio", 1e12);
  recipe->label.weight = optional_number(loss, "label", 1e12);
  loss.finish();
  Fields points = fields.object("points");
  for (auto [key, answer] : {std::pair{"video", &recipe->video}, {"audio", &recipe->audio}}) {
    if (points.has(key)) {
      answer->points = points.integer(key, 0, 0, int64_t{1} << 40);
    }
  }
  points.finish();
  Fields hide = fields.object("hide");
  recipe->hide.label = optional_number(hide, "label", 1);
  recipe->hide.video = hide.number("video", 0, 0, 1);
  recipe->hide.audio = hide.number("audio", 0, 0, 1);
  if (recipe->hide.video + recipe->hide.audio > 1) {
    throw Error(ErrorCode::kArgument,
                cat(hide.where("video"), " and audio are ", recipe->hide.video, " and ",
                    recipe->hide.audio, ", together more than 1: one of them always stays"));
  }
  hide.finish();
  recipe->label_smoothing = read_label_smoothing(fields, recipe->data.classes.kind);
  return recipe;
}

}  // namespace perceiver::train
