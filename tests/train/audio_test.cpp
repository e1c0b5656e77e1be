#include "perceiver/io/audio.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <set>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "support/shared.h"
#include "train/data/sound_files.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::task_of;

io::Audio tone(double hertz, double seconds, int rate, double phase = 0) {
  io::Audio audio;
  audio.sample_rate = rate;
  const auto count = static_cast<int64_t>(seconds * rate);
  audio.samples = Array::zeros(DType::kF32, {count, 1});
  for (int64_t t = 0; t < count; ++t) {
    audio.samples.mutable_data<float>()[t] = static_cast<float>(
        0.4 * std::sin(2 * std::numbers::pi * hertz * static_cast<double>(t) / rate + phase));
  }
  return audio;
}

Json audio_recipe() {
  return Json::parse(R"({
    "name": "tiny-audio", "task": "audio_classification",
    "model": {"spec": {
      "name": "tiny-audio",
      "inputs": [{"name": "audio", "kind": "grid", "index_dims": [256], "channels": 1,
                  "stem": "patches", "downsample": [16],
                  "position": {"kind": "fourier", "num_bands": 4}}],
      "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"output_channels": 2},
      "outputs": [{"name": "logits", "query": "learned", "index_dims": [1], "channels": 16,
                   "single_row": true}],
      "labels": ["low", "high"]}},
    "data": {"folder": "sounds", "list": "list.csv", "test_folds": ["b"]},
    "preprocessor": {"sampling_rate": 4000, "do_normalize": true},
    "augment": {"gain_db": 3},
    "optimiser": {"learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 8, "steps": 60, "seed": 3})");
}

// Low and high tones at 8 kHz, some shorter and some longer than the model's 64 ms.
class AudioTraining : public test::Runs {
 protected:
  AudioTraining() {
    std::filesystem::create_directories(folder_ / "sounds");
    std::string list = "path,label,fold\n";
    for (int i = 0; i < 24; ++i) {
      const bool high = i % 2 == 1;
      const std::string name = cat(i, ".wav");
      io::write_wav(folder_ / ("sounds/" + name),
                    tone(high ? 900 : 150, 0.04 + 0.005 * i, 8000, 0.7 * i));
      list += cat(name, ",", high ? "high" : "low", ",", i < 16 ? "a" : "b", "\n");
    }
    test::write_bytes(folder_ / "list.csv", list);
  }
};

TEST_F(AudioTraining, TellsLowFromHighSounds) {
  const TrainResult result = run(audio_recipe(), "out");
  ASSERT_EQ(result.metrics.size(), 2U);
  EXPECT_EQ(result.metrics[0].first, "accuracy");
  EXPECT_EQ(result.metrics[0].second, 1);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/preprocessor_config.json"));
}

TEST_F(AudioTraining, SeveralWindowsOfATestSoundAreAveraged) {
  Json json = audio_recipe();
  json["data"]["test_clips"] = 3;
  EXPECT_EQ(run(json, "out").metrics[0].second, 1);
}

TEST_F(AudioTraining, MultiLabelIsMeasuredByMeanAveragePrecision) {
  std::string list = "path\tlabel\tfold\n";
  for (int i = 0; i < 24; ++i) {
    list += cat(i, ".wav\t", i % 2 == 1 ? "high;loud" : (i % 4 == 0 ? "" : "loud"), "\t",
                i < 16 ? "a" : "b", "\n");
  }
  test::write_bytes(folder_ / "list.csv", list);
  Json json = audio_recipe();
  json["model"]["spec"]["labels"] = {"loud", "high"};
  json["data"]["multi_label"] = true;
  const TrainResult result = run(json, "out");
  EXPECT_EQ(result.metrics[0].first, "map");
  EXPECT_EQ(result.metrics[1].first, "prior_map");
  EXPECT_NEAR(result.metrics[1].second, (0.75 + 0.5) / 2, 1e-9);
  EXPECT_GT(result.metrics[0].second, 0.8);
}

TEST_F(AudioTraining, BatchesAreFunctionsOfTheirIndexAndResampled) {
  const Recipe recipe = read(audio_recipe());
  const auto first = task_of(recipe);
  const auto second = task_of(recipe);
  second->training_batch(3);
  const Batch a = first->training_batch(5);
  const Batch b = second->training_batch(5);
  const at::Tensor& sound = a.inputs.arrays.at("audio");
  EXPECT_EQ(sound.sizes().vec(), (std::vector<int64_t>{8, 256, 1}));
  EXPECT_TRUE(sound.equal(b.inputs.arrays.at("audio")));
  EXPECT_TRUE(a.targets.at("logits").equal(b.targets.at("logits")));
  EXPECT_FALSE(sound.equal(first->training_batch(6).inputs.arrays.at("audio")));
}

TEST_F(AudioTraining, UnreadableSoundsStopTheRunOrAreCounted) {
  test::write_bytes(folder_ / "sounds/4.wav", "RIFF of nothing");
  Json json = audio_recipe();
  json["steps"] = 4;
  try {
    run(json, "out");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("4.wav"), std::string::npos) << error.what();
  }
  json["skip_bad"] = 1;
  EXPECT_EQ(run(json, "other").skipped, 1);
}

TEST_F(AudioTraining, SaysWhatDoesNotFit) {
  Json json = audio_recipe();
  json.erase("preprocessor");
  expect_refused(json, "preprocessor.sampling_rate is missing");
  json = audio_recipe();
  json["preprocessor"]["sampling_rat"] = 3;
  expect_refused(json, "unknown key 'sampling_rat'");
  json = audio_recipe();
  json["model"]["spec"]["labels"] = {"low", "hihg"};
  expect_refused(json, ".wav: 'high' is no class of the model; did you mean 'hihg'?");
  json = audio_recipe();
  json["augment"]["gian_db"] = 3;
  expect_refused(json, "unknown key 'gian_db'; did you mean 'gain_db'?");
  json = audio_recipe();
  json["model"]["spec"]["inputs"][0]["channels"] = 3;
  expect_refused(json, "with 1 or 2 channels");
}

TEST(SoundFiles, TrainingWindowsCropOrPadAtRandomPlaces) {
  const Array sound = Array::of<float>({6, 1}, {1, 2, 3, 4, 5, 6});
  SoundAugmentSpec spec;
  std::set<float> firsts;
  std::set<int64_t> leads;
  for (uint64_t i = 0; i < 200; ++i) {
    Random random{i};
    const Array part = training_window(sound, 4, false, spec, random);
    firsts.insert(part.data<float>()[0]);
    EXPECT_EQ(part.data<float>()[3], part.data<float>()[0] + 3);
    const Array whole = training_window(sound, 8, false, spec, random);
    int64_t lead = 0;
    while (whole.data<float>()[lead] == 0) {
      ++lead;
    }
    leads.insert(lead);
    EXPECT_EQ(whole.data<float>()[lead + 5], 6);
  }
  EXPECT_EQ(firsts, (std::set<float>{1, 2, 3}));
  EXPECT_EQ(leads, (std::set<int64_t>{0, 1, 2}));
  spec.crop = false;
  Random random{1};
  EXPECT_EQ(training_window(sound, 4, false, spec, random).data<float>()[0], 2);
}

TEST(SoundFiles, GainStaysWithinItsDecibelsAndSpeedMovesThePitch) {
  const Array ones = Array::of<float>({4, 1}, {1, 1, 1, 1});
  SoundAugmentSpec spec;
  spec.gain_db = 6;
  float least = 10;
  float most = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    Random random{i};
    const float value = training_window(ones, 4, false, spec, random).data<float>()[0];
    least = std::min(least, value);
    most = std::max(most, value);
  }
  EXPECT_NEAR(least, 0.501, 0.02);
  EXPECT_NEAR(most, 1.995, 0.02);
  const Array ramp = Array::of<float>({5, 1}, {0, 1, 2, 3, 4});
  const Array fast = change_speed(ramp, 2);
  EXPECT_EQ(fast.size(0), 2);
  EXPECT_EQ(fast.data<float>()[1], 2);
  const Array slow = change_speed(ramp, 0.5);
  EXPECT_EQ(slow.size(0), 10);
  EXPECT_EQ(slow.data<float>()[3], 1.5F);
  EXPECT_EQ(slow.data<float>()[9], 4);
}

TEST(AudioRecipesShared, SpokenDigitsLoad) {
  PERCEIVER_SHARED_OR_SKIP(data, "data/audio");
  const std::filesystem::path recipes = std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes";
  RecipeOptions options;
  options.data = data.parent_path();
  const Recipe digits = read_recipe(recipes / "fsdd-audio.json", options);
  const auto task = digits.task_recipe->make(digits, digits.model, TaskData::kTrainAndTest);
  EXPECT_EQ(task->test_examples(), 300);
  const Batch batch = task->training_batch(0);
  EXPECT_EQ(batch.targets.at("logits").size(0), digits.batch_size);
}

}  // namespace
}  // namespace perceiver::train
