#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/io/video.h"
#include "perceiver/spec/presets.h"
#include "train/checkpoint.h"
#include "train/data/films.h"
#include "train/tasks/audio_video_roles.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::task_of;

// 4 frames of 8 x 8 and 640 samples at 4 kHz: 0.16 s at 25 frames per second.
Json autoencoder_recipe() {
  return Json::parse(R"({
    "name": "tiny-multimodal", "task": "audio_video",
    "model": {"spec": {
      "name": "tiny-multimodal",
      "inputs": [{"name": "audio", "kind": "grid", "index_dims": [640], "channels": 1,
                  "stem": "patches", "downsample": [16],
                  "position": {"kind": "fourier", "num_bands": 8}},
                 {"name": "image", "kind": "grid", "index_dims": [4, 8, 8], "channels": 3,
                  "stem": "patches", "downsample": [1, 4, 4],
                  "position": {"kind": "fourier", "num_bands": 2}},
                 {"name": "label", "kind": "label", "channels": 3, "mask_probability": 1}],
      "pad_inputs": true,
      "encoder": {"num_latents": 8, "latent_channels": 32, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 32, "pad_queries": true},
      "outputs": [{"name": "audio", "query": "fourier", "index_dims": [40],
                   "position": {"kind": "fourier", "num_bands": 8}, "head": "linear",
                   "head_channels": 16, "flatten_channels": true, "whole_grid": "half_open"},
                  {"name": "image", "query": "fourier", "index_dims": [4, 8, 8],
                   "position": {"kind": "fourier", "num_bands": 4}, "head": "linear",
                   "head_channels": 3, "keep_grid": true, "whole_grid": "half_open"},
                  {"name": "label", "query": "learned", "index_dims": [1], "channels": 16,
                   "head": "linear", "head_channels": 3, "single_row": true}]}},
    "data": {"generated": {"train_examples": 64, "test_examples": 20, "noise": 0.01},
             "sample_rate": 4000},
    "loss": {"video": 1, "audio": 1, "label": 0.1},
    "points": {"video": 64, "audio": 20},
    "hide": {"label": 0.5},
    "optimiser": {"learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 8, "steps": 80, "seed": 1})");
}

Json tagger_recipe() {
  Json json = autoencoder_recipe();
  json["name"] = "tiny-tags";
  Json& model = json["model"]["spec"];
  model["inputs"].erase(2);
  model["outputs"] = Json::array({model["outputs"][2]});
  model["outputs"][0]["name"] = "tags";
  json["data"]["multi_label"] = true;
  json["data"]["generated"]["presence"] = 0.4;
  json["hide"] = {{"video", 0.3}};
  json.erase("loss");
  json.erase("points");
  return json;
}

class AudioVideoTraining : public test::Runs {
 protected:
  using Runs::run;
  TrainResult run(const Json& json, const std::string& out, int64_t stop_after, bool resume) {
    std::atomic<bool> stop{false};
    TrainOptions options;
    options.out = folder_ / out;
    options.resume = resume;
    options.num_threads = 1;
    options.num_loaders = 2;
    options.stop = &stop;
    options.on_step = [&](const StepRecord& record) { stop = stop || record.step == stop_after; };
    return train(read(json), options);
  }
  // Films of 12 frames, each wholly of one colour that says its class, with a tone.
  void write_films(const std::string& name, int count) {
    std::filesystem::create_directories(folder_ / "films");
    std::string list = "path,label,fold\n";
    for (int i = 0; i < count; ++i) {
      Array frames = Array::zeros(DType::kU8, {12, 16, 20, 3});
      uint8_t* out = frames.mutable_data<uint8_t>();
      for (int64_t k = 0; k < frames.numel(); ++k) {
        out[k] = k % 3 == i % 3 ? 220 : static_cast<uint8_t>(20 + k / (16 * 20 * 3) * 5);
      }
      io::Audio audio;
      audio.sample_rate = 16000;
      audio.samples = Array::zeros(DType::kF32, {7680, 1});
      for (int64_t t = 0; t < 7680; ++t) {
        audio.samples.mutable_data<float>()[t] =
            0.3F * std::sin(0.1F * static_cast<float>((1 + i % 3) * t));
      }
      io::write_mp4(folder_ / cat("films/", i, ".mp4"), frames, 25, audio);
      list += cat(i, ".mp4,", i % 3, ",", i < count / 2 ? "train" : "test", "\n");
    }
    test::write_bytes(folder_ / name, list);
  }
  static Json film_recipe() {
    Json json = autoencoder_recipe();
    json["data"] = {{"folder", "films"},   {"list", "films.csv"}, {"test_folds", {"test"}},
                    {"sample_rate", 4000}, {"train_clips", 3},    {"test_clips", 2}};
    return json;
  }
};

TEST_F(AudioVideoTraining, AutoencoderLearnsFilmSoundAndLabel) {
  Json json = autoencoder_recipe();
  json["model"]["spec"]["encoder"]["num_latents"] = 16;
  json["model"]["spec"]["encoder"]["latent_channels"] = 48;
  json["data"]["generated"] = {{"train_examples", 5000}, {"test_examples", 64}, {"noise", 0.01}};
  json["optimiser"] = {{"learning_rate", 0.003}, {"beta2", 0.98}, {"clip_norm", 1}};
  json["schedule"] = {{"kind", "cosine"}, {"warmup_steps", 20}};
  json["steps"] = 600;
  const Metrics metrics = run(json, "out").metrics;
  ASSERT_EQ(metrics.size(), 5U);
  EXPECT_EQ(metrics[0].first, "audio_psnr");
  EXPECT_EQ(metrics[1].first, "silence_psnr");
  EXPECT_GT(metrics[0].second, metrics[1].second + 1);
  EXPECT_EQ(metrics[2].first, "video_psnr");
  EXPECT_EQ(metrics[3].first, "mean_colour_psnr");
  EXPECT_GT(metrics[2].second, metrics[3].second);
  EXPECT_EQ(metrics[4].first, "accuracy");
  EXPECT_GT(metrics[4].second, 0.9);  // chance is 1/3
}

TEST_F(AudioVideoTraining, TaggerIsMeasuredByMeanAveragePrecision) {
  const TrainResult result = run(tagger_recipe(), "out");
  ASSERT_EQ(result.metrics.size(), 2U);
  EXPECT_EQ(result.metrics[0].first, "map");
  EXPECT_GT(result.metrics[0].second, result.metrics[1].second + 0.1);
}

TEST_F(AudioVideoTraining, AResumedRunEqualsAnUninterruptedOneBitForBit) {
  Json json = autoencoder_recipe();
  json["steps"] = 6;
  run(json, "straight");
  run(json, "broken", 2, false);
  run(json, "broken", 0, true);
  const auto bytes = [&](const char* out) {
    return read_file(newest_checkpoint(folder_ / out / "training"), uint64_t{1} << 30);
  };
  EXPECT_EQ(bytes("straight"), bytes("broken"));
}

TEST_F(AudioVideoTraining, TargetsAreTheRowsAskedFor) {
  const Recipe recipe = read(autoencoder_recipe());
  const auto made = task_of(recipe);
  const Batch batch = made->training_batch(4);
  const std::vector<int64_t>& video = batch.request.points.at("image");
  const std::vector<int64_t>& audio = batch.request.points.at("audio");
  EXPECT_EQ(std::set<int64_t>(video.begin(), video.end()).size(), 64U);
  EXPECT_EQ(std::set<int64_t>(audio.begin(), audio.end()).size(), 20U);
  const at::Tensor pixels = batch.inputs.arrays.at("image").reshape({8, 256, 3});
  const at::Tensor samples = batch.inputs.arrays.at("audio").reshape({8, 40, 16});
  EXPECT_EQ(batch.targets.at("image").sizes().vec(), (std::vector<int64_t>{8, 64, 3}));
  for (int64_t i = 0; i < 64; ++i) {
    EXPECT_TRUE(batch.targets.at("image").select(1, i).equal(
        pixels.select(1, video[static_cast<size_t>(i)])));
  }
  EXPECT_TRUE(batch.targets.at("audio").select(1, 7).equal(samples.select(1, audio[7])));
  EXPECT_NE(made->training_batch(5).request.points.at("image"), video);
  EXPECT_EQ(task_of(recipe)->training_batch(4).request.points.at("image"), video);
}

TEST_F(AudioVideoTraining, TheLabelIsHiddenAsOftenAsAsked) {
  Json json = autoencoder_recipe();
  const auto hidden_share = [&] {
    const Recipe recipe = read(json);
    const auto made = task_of(recipe);
    double hidden = 0;
    for (int64_t i = 0; i < 50; ++i) {
      const Batch batch = made->training_batch(i);
      hidden += batch.inputs.replaced.at("label").sum().item<double>();
      const at::Tensor read_label = batch.inputs.arrays.at("label").argmax(1);
      EXPECT_TRUE(read_label.equal(batch.targets.at("label")));
    }
    return hidden / (50 * 8);
  };
  EXPECT_NEAR(hidden_share(), 0.5, 0.08);
  json.erase("hide");
  EXPECT_EQ(hidden_share(), 1);  // the spec's mask_probability
}

TEST_F(AudioVideoTraining, WholeFilmsAreHiddenByMaskOrMaskToken) {
  Json json = tagger_recipe();
  json["hide"] = {{"video", 0.3}, {"audio", 0.2}};
  const Recipe plain = read(json);
  json["model"]["spec"]["inputs"][1]["mask_probability"] = 0;
  const Recipe with_token = read(json);
  const auto by_mask = task_of(plain);
  const auto by_token = task_of(with_token);
  double video_hidden = 0;
  for (int64_t i = 0; i < 50; ++i) {
    const Batch batch = by_mask->training_batch(i);
    const at::Tensor video = batch.inputs.masks.at("image").logical_not();
    const at::Tensor audio = batch.inputs.masks.at("audio").logical_not();
    EXPECT_EQ(video.sizes().vec(), (std::vector<int64_t>{8, 16}));
    EXPECT_TRUE(video.any(1).equal(video.all(1)));
    EXPECT_FALSE(video.any(1).logical_and(audio.any(1)).any().item<bool>());
    video_hidden += video.all(1).sum().item<double>();
    EXPECT_TRUE(video.equal(by_token->training_batch(i).inputs.replaced.at("image")));
  }
  EXPECT_NEAR(video_hidden / (50 * 8), 0.3, 0.08);
}

TEST_F(AudioVideoTraining, ReadsFilmsFromAFolder) {
  write_films("films.csv", 6);
  Json json = film_recipe();
  json["steps"] = 100;
  json["hide"]["label"] = 1;
  const TrainResult result = run(json, "out");
  EXPECT_EQ(result.metrics[4].first, "accuracy");
  EXPECT_GT(result.metrics[4].second, 0.5);  // chance is 1/3
  const Recipe recipe = read(json);
  const at::Tensor pixels = task_of(recipe)->training_batch(0).inputs.arrays.at("image");
  EXPECT_EQ(pixels.sizes().vec(), (std::vector<int64_t>{8, 4, 8, 8, 3}));
  EXPECT_LE(pixels.max().item<double>(), 1);
}

TEST_F(AudioVideoTraining, CachedClipsEqualDecodedOnes) {
  write_films("films.csv", 4);
  Json json = film_recipe();
  json["data"]["cache_mib"] = 0;
  const Recipe without = read(json);
  json["data"]["cache_mib"] = 16;
  const Recipe with = read(json);
  const auto decoding = task_of(without);
  const auto caching = task_of(with);
  for (const int64_t index : {0, 1, 0}) {
    const Batch a = decoding->training_batch(index);
    const Batch b = caching->training_batch(index);
    EXPECT_TRUE(a.inputs.arrays.at("image").equal(b.inputs.arrays.at("image")));
    EXPECT_TRUE(a.inputs.arrays.at("audio").equal(b.inputs.arrays.at("audio")));
  }
}

TEST_F(AudioVideoTraining, UnreadableFilmsAreNamedOrCounted) {
  write_films("films.csv", 6);
  test::write_bytes(folder_ / "films/1.mp4", "no film");
  Json json = film_recipe();
  json["steps"] = 3;
  try {
    run(json, "out");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("1.mp4"), std::string::npos) << error.what();
  }
  json["skip_bad"] = 1;
  EXPECT_EQ(run(json, "other").skipped, 1);
}

TEST_F(AudioVideoTraining, SaysWhatDoesNotFit) {
  Json json = autoencoder_recipe();
  json["data"]["sample_rate"] = 8000;
  expect_refused(json, "4 frames at 25 per second last 0.16 s, but 640 samples at 8000 Hz");
  json = autoencoder_recipe();
  json["points"]["video"] = 257;
  expect_refused(json, "points.video is 257, but output image has 256 rows");
  json = autoencoder_recipe();
  json["model"]["spec"]["outputs"][1]["whole_grid"] = "inclusive";
  expect_refused(json, "set whole_grid to half_open");
  json = autoencoder_recipe();
  json["model"]["spec"]["inputs"][2].erase("mask_probability");
  expect_refused(json, "needs a mask token");
  json = autoencoder_recipe();
  json["hide"]["video"] = 0.6;
  json["hide"]["audio"] = 0.6;
  expect_refused(json, "together more than 1");
  json = tagger_recipe();
  json["loss"] = {{"video", 1}};
  expect_refused(json, "loss.video is given, but the model answers with no video");
  json = autoencoder_recipe();
  json["model"]["spec"]["inputs"][2]["channels"] = 4;
  expect_refused(json, "output label tells 3 classes, the input 4");
  json = tagger_recipe();
  json["label_smoothing"] = 0.1;
  expect_refused(json, "with multi_label nothing is smoothed");
  json = autoencoder_recipe();
  json["data"]["folder"] = "films";
  expect_refused(json, "either a folder of films or generated ones");
}

TEST(AudioVideoRoles, FindsThePartsOfThePresets) {
  const AudioVideoRoles kinetics = audio_video_roles(preset("multimodal-perceiver"));
  EXPECT_EQ(kinetics.shape.frames, 16);
  EXPECT_EQ(kinetics.shape.size, 224);
  EXPECT_EQ(kinetics.shape.samples, 30720);
  EXPECT_EQ(kinetics.classes, 700);
  EXPECT_EQ(kinetics.audio_row, 16);
  const AudioVideoRoles audioset = audio_video_roles(preset("perceiver-io-audioset"));
  EXPECT_EQ(audioset.classes, 527);
  EXPECT_EQ(audioset.label_out->name, "logits");
  EXPECT_EQ(audio_video_roles(preset("perceiver-audioset")).classes, 527);
  EXPECT_THROW(audio_video_roles(preset("language-perceiver")), Error);
  EXPECT_THROW(audio_video_roles(preset("optical-flow-perceiver")), Error);
}

// The frequency of the strongest correlation with a sine and a cosine.
double loudest_class(const Array& audio, int64_t num_classes, int rate) {
  double best = -1;
  int64_t loudest = 0;
  for (int64_t k = 0; k < num_classes; ++k) {
    const double hertz = GeneratedFilms::pitch(k, num_classes, rate);
    double re = 0;
    double im = 0;
    for (int64_t t = 0; t < audio.size(0); ++t) {
      const double angle = 2 * 3.14159265358979 * hertz * static_cast<double>(t) / rate;
      re += static_cast<double>(audio.data<float>()[t]) * std::cos(angle);
      im += static_cast<double>(audio.data<float>()[t]) * std::sin(angle);
    }
    if (std::hypot(re, im) > best) {
      best = std::hypot(re, im);
      loudest = k;
    }
  }
  return static_cast<double>(loudest);
}

TEST(GeneratedFilms, SoundFollowsTheClassAndTestFilmsAreNew) {
  GeneratedFilms::Options options;
  options.shape = {4, 16, 1280, 8000};
  options.num_classes = 6;
  options.count = 30;
  options.seed = 5;
  GeneratedFilms films({}, options);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < films.count(); ++i) {
    const std::vector<int64_t> classes = films.classes(i);
    ASSERT_EQ(classes.size(), 1U);
    seen.insert(classes[0]);
    EXPECT_EQ(loudest_class(films.read(i, 0)->audio, 6, 8000), static_cast<double>(classes[0]));
  }
  EXPECT_EQ(seen.size(), 6U);
  options.first = 29;
  GeneratedFilms later({}, options);
  const auto pixels = [](Films& from, int64_t i) {
    const auto clip = from.read(i, 0);
    const uint8_t* data = clip->frames.data<uint8_t>();
    return std::vector<uint8_t>(data, data + clip->frames.numel());
  };
  EXPECT_EQ(pixels(films, 29), pixels(later, 0));
  EXPECT_NE(pixels(films, 0), pixels(later, 0));
}

// The released preset with the paper's settings reads real film files.
TEST_F(AudioVideoTraining, TheKineticsRecipeReadsFilms) {
  write_films("test.csv", 2);
  std::filesystem::copy(folder_ / "test.csv", folder_ / "train.csv");
  std::string names;
  for (int i = 0; i < 700; ++i) {
    names += cat(i, "\n");
  }
  test::write_bytes(folder_ / "names.txt", names);
  RecipeOptions options;
  options.data = folder_.path();
  options.overrides = {{"data.folder", "films"},
                       {"data.list", "train.csv"},
                       {"data.test_list", "test.csv"},
                       {"data.class_names", "names.txt"},
                       {"batch_size", "1"}};
  const Recipe recipe = read_recipe(
      std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes/multimodal-kinetics.json", options);
  const Batch batch = task_of(recipe)->training_batch(0);
  EXPECT_EQ(batch.inputs.arrays.at("image").sizes().vec(),
            (std::vector<int64_t>{1, 16, 224, 224, 3}));
  EXPECT_EQ(batch.inputs.arrays.at("audio").sizes().vec(), (std::vector<int64_t>{1, 30720, 1}));
  EXPECT_EQ(batch.targets.at("image").sizes().vec(), (std::vector<int64_t>{1, 512, 3}));
  EXPECT_EQ(batch.targets.at("audio").sizes().vec(), (std::vector<int64_t>{1, 512, 16}));
}

}  // namespace
}  // namespace perceiver::train
