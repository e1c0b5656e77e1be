#include <cmath>
#include <zlib.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>

#include "support/shared.h"
#include "train/data/entities.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

using test::expect_refused;
using test::metric;
using test::recipe_in;
using test::run_in;
using test::task_of;
using test::TemporaryFolder;
using test::write_bytes;

Json entity_recipe() {
  return Json::parse(R"({
    "name": "tiny-entities", "task": "entity_sets",
    "model": {"spec": {
      "name": "tiny-entities",
      "inputs": [{"name": "units", "kind": "set", "index_dims": [40], "coordinates": 2,
                  "channels": 22, "stem": "linear", "out_channels": 16,
                  "position": {"kind": "fourier", "num_bands": 6, "max_resolution": [8, 8]}}],
      "encoder": {"num_latents": 16, "latent_channels": 32, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"cross_attend": {"use_query_residual": true}, "output_channels": 32,
                  "pad_queries": true},
      "outputs": [{"name": "owners", "query": "input_tokens", "of_input": "units",
                   "head": "linear", "head_channels": 2},
                  {"name": "phase", "query": "learned", "index_dims": [1], "channels": 32,
                   "head": "linear", "head_channels": 2, "single_row": true}]}},
    "data": {"generated": {"train_examples": 2000, "test_examples": 64}, "hidden": 0.4,
             "phases": [10]},
    "init": {"local_attention": 2},
    "optimiser": {"learning_rate": 0.002, "clip_norm": 1},
    "batch_size": 16, "steps": 400, "seed": 3})");
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(text.size() + 256, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

constexpr const char* kHeading = "t_s,unit_id,owner,type,x,y,position_s\n";

std::vector<EntityFrame> frames_of(const TemporaryFolder& folder, const std::string& text) {
  write_bytes(folder / "r.csv.gz", gzip(text));
  return read_entity_frames(folder / "r.csv.gz");
}

TEST(Entities, ReadsFramesOfATable) {
  TemporaryFolder folder;
  const auto frames = frames_of(folder, std::string(kHeading) +
                                            "60,1,0,MineralField,10,20,0\n60,2,1,SCV,30,20,55\r\n"
                                            "120,2,2,Drone,20,25,55\n");
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[0].seconds, 60);
  ASSERT_EQ(frames[0].entities.size(), 2U);
  const Entity& mineral = frames[0].entities[0];
  EXPECT_EQ(mineral.x, -1);
  EXPECT_FLOAT_EQ(mineral.y, -0.25F) << "both axes by the larger extent";
  EXPECT_FALSE(mineral.moved);
  const Entity& scv = frames[0].entities[1];
  EXPECT_EQ(scv.owner, 1);
  EXPECT_TRUE(scv.moved && scv.recent);
  EXPECT_EQ(scv.type, name_hash("SCV"));
  EXPECT_EQ(frames[1].entities[0].owner, 2);
  EXPECT_FALSE(frames[1].entities[0].recent) << "reported 65 s ago";
}

TEST(Entities, ReadsATableOfUnitsWithoutTimes) {
  TemporaryFolder folder;
  write_bytes(folder / "units.csv", "tag,name,owner,x,y\n8,XelNagaTower,16,1.5,2\n9,SCV,1,3,4");
  const auto frames = read_entity_frames(folder / "units.csv");
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].entities[0].owner, 0);
  EXPECT_EQ(frames[0].entities[1].owner, 1);
}

TEST(Entities, NamesLineAndColumnOfWhatIsWrong) {
  TemporaryFolder folder;
  const auto refused = [&](const std::string& text) -> std::string {
    try {
      frames_of(folder, text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      return error.what();
    }
    ADD_FAILURE() << "accepted: " << text;
    return "";
  };
  const std::string heading = kHeading;
  using ::testing::HasSubstr;
  EXPECT_THAT(refused(""), HasSubstr("empty"));
  EXPECT_THAT(refused(heading), HasSubstr("without rows"));
  EXPECT_THAT(refused("t_s,owner,x,y\n"), HasSubstr("has no column 'name'"));
  EXPECT_THAT(refused(heading + "60,1,0,A,1\n"), HasSubstr("line 2: 5 cells under 7 headings"));
  EXPECT_THAT(refused(heading + "60,1,0,A,one,2,0\n"),
              HasSubstr("line 2: x is 'one', not a number"));
  EXPECT_THAT(refused(heading + "60,1,0,A,nan,2,0\n"), HasSubstr("not a number"));
  EXPECT_THAT(refused(heading + "60,1,0,A,1,2,0\n30,1,0,A,1,2,0\n"),
              HasSubstr("t_s falls from 60"));
}

TEST(Entities, ListsReplaysByPlainNamesOnly) {
  TemporaryFolder folder;
  write_bytes(folder / "list.csv", "id,map,winner\nr1,Old Town,2\nr2,Odyssey,\n");
  const auto replays = read_replay_list(folder / "list.csv");
  ASSERT_EQ(replays.size(), 2U);
  EXPECT_EQ(replays[0].path, folder / "r1.csv.gz");
  EXPECT_EQ(replays[0].winner, 2);
  EXPECT_EQ(replays[1].winner, 0);
  write_bytes(folder / "list.csv", "id,winner\n../secret,1\n");
  EXPECT_THROW(read_replay_list(folder / "list.csv"), Error);
}

TEST(EntityTask, BatchesHideOwnersAndMaskWhatIsNotThere) {
  TemporaryFolder folder;
  const Recipe recipe = recipe_in(folder, entity_recipe());
  const auto task = task_of(recipe);
  const Batch batch = task->training_batch(1);
  const at::Tensor& values = batch.inputs.arrays.at("units");
  const at::Tensor& present = batch.inputs.masks.at("units");
  const at::Tensor hidden = batch.mask;
  EXPECT_EQ(values.size(2), 24);
  EXPECT_TRUE(present.sum(1).lt(values.size(1)).any().item<bool>()) << "sets of different sizes";
  EXPECT_FALSE(hidden.logical_and(present.logical_not()).any().item<bool>());
  EXPECT_EQ(values.masked_select(present.logical_not().unsqueeze(-1)).abs().sum().item<float>(), 0);
  // features 2 to 5: player 1, player 2, nobody, hidden; exactly one is set
  const at::Tensor owner = values.slice(2, 2, 6);
  EXPECT_TRUE(owner.sum(-1).eq(present.to(at::kFloat)).all().item<bool>());
  EXPECT_TRUE(owner.select(2, 3).to(at::kBool).equal(hidden));
  EXPECT_TRUE(values.slice(2, 8).sum(-1).eq(present.to(at::kFloat)).all().item<bool>())
      << "one bucket per type";
  EXPECT_EQ(task->counts(batch), (Counts{static_cast<double>(hidden.sum().item<int64_t>()), 16.0}));
  EXPECT_TRUE(task_of(recipe)->training_batch(1).inputs.arrays.at("units").equal(values));
}

TEST(EntityTask, LearnsWhoseAnEntityIsAndHowLateItIs) {
  TemporaryFolder folder;
  const TrainResult result = run_in(folder, entity_recipe());
  EXPECT_GT(metric(result.metrics, "owner_accuracy"), 0.85);  // without local_attention: 0.46
  EXPECT_LT(metric(result.metrics, "owner_majority_accuracy"), 0.56);
  EXPECT_GT(metric(result.metrics, "owner_nearest_accuracy"), 0.75);
  EXPECT_GT(metric(result.metrics, "phase_accuracy"), 0.85);
}

TEST(EntityTask, MicroBatchesCountWhatTheyHide) {
  TemporaryFolder folder;
  Json json = entity_recipe();
  json["steps"] = 6;
  const double whole = run_in(folder, json, "whole").loss;
  json["batch_size"] = 4;
  json["accumulate"] = 4;
  EXPECT_NEAR(run_in(folder, json, "parts").loss, whole, 2e-4 * whole);
}

class Replays : public ::testing::Test {
 protected:
  Replays() {
    write_bytes(folder_ / "replays.csv", "id,winner\nr1,1\nr2,2\n");
    for (const std::string id : {"r1", "r2"}) {
      std::string text = kHeading;
      for (const int time : {60, 660}) {
        for (int i = 0; i < 50; ++i) {
          const int owner = i < 20 ? 0 : 1 + i % 2;
          text += std::to_string(time) + ",1," + std::to_string(owner) + ",T" +
                  std::to_string(i % 3) + "," + std::to_string(owner * 50 + i % 7) + "," +
                  std::to_string(i) + ",0\n";
        }
      }
      write_bytes(folder_ / (id + ".csv.gz"), gzip(text));
    }
    json_ = entity_recipe();
    json_["data"] = {{"replays", "replays.csv"}, {"held_out", {"r2"}}, {"phases", {10}}};
    json_["batch_size"] = 2;
    json_["steps"] = 1;
  }
  TemporaryFolder folder_;
  Json json_;
};

TEST_F(Replays, HeldOutGamesAreOnlyMeasuredOn) {
  const Recipe recipe = recipe_in(folder_, json_);
  const auto task = task_of(recipe);
  EXPECT_EQ(task->test_examples(), 2);
  const Batch batch = task->training_batch(0);
  EXPECT_EQ(batch.targets.at("phase").sum().item<int64_t>(), 1) << "one frame of each phase";
  // 50 entities, the model takes 40: the 30 of the players stay
  const at::Tensor nobody = batch.inputs.arrays.at("units").select(2, 4);
  EXPECT_EQ(nobody.sum().item<float>(), 2 * 10);
  EXPECT_EQ(task_of(recipe, TaskData::kTestOnly)->test_examples(), 2);
  EXPECT_EQ(metric(run_in(folder_, json_).metrics, "phase_majority_accuracy"), 0.5);
}

TEST_F(Replays, TheWinnerFollowsItsPlayer) {
  json_["data"]["pooled"] = "winner";
  json_["data"]["mirror"] = false;
  json_["data"]["hidden"] = 0.001;
  const Recipe recipe = recipe_in(folder_, json_);
  const auto task = task_of(recipe);
  bool swapped[2] = {false, false};
  for (int64_t i = 0; i < 8; ++i) {
    const Batch batch = task->training_batch(i);
    for (int64_t k = 0; k < 2; ++k) {
      // player 1's units lie at smaller x; where the features call them player 2's, he won as 2
      const at::Tensor units = batch.inputs.arrays.at("units")[k];
      const at::Tensor second = units.select(1, 3).to(at::kBool);
      const at::Tensor first = units.select(1, 2).to(at::kBool);
      const bool is_swapped = units.select(1, 0).masked_select(second).mean().item<float>() <
                              units.select(1, 0).masked_select(first).mean().item<float>();
      EXPECT_EQ(batch.targets.at("phase")[k].item<int64_t>(), is_swapped ? 1 : 0);
      swapped[is_swapped] = true;
    }
  }
  EXPECT_TRUE(swapped[0] && swapped[1]);
}

TEST_F(Replays, RefusesWhatDoesNotFitBeforeTheFirstStep) {
  Json json = json_;
  json["data"]["held_out"] = {"r9"};
  expect_refused(folder_, json, "data.held_out names 'r9'");
  json["data"]["held_out"] = {"r1", "r2"};
  expect_refused(folder_, json, "leaves 0 frames to train on and 4 to measure on");
  json = json_;
  json["data"]["phases"] = {10, 5};
  expect_refused(folder_, json, "rising minutes");
  json["data"]["phases"] = {5, 10, 15};
  expect_refused(folder_, json, "output phase of width 2 is neither");
  json = json_;
  json["model"]["spec"]["inputs"][0]["channels"] = 6;
  expect_refused(folder_, json, "more than 8 features altogether");
  json = json_;
  json["data"]["generated"] = Json::object();
  expect_refused(folder_, json, "exactly one of replays");
  json = json_;
  json["data"]["hiden"] = 0.5;
  expect_refused(folder_, json, "did you mean 'hidden'?");
  write_bytes(folder_ / "r1.csv.gz", "not a table");
  expect_refused(folder_, json_, "r1.csv.gz: has no column 'owner'");
  json = json_;
  json["skip_bad"] = 1;
  expect_refused(folder_, json, "leaves 0 frames to train on");
}

TEST(EntityTaskShared, ReadsRealReplaysAndObservations) {
  PERCEIVER_SHARED_OR_SKIP(data, "data/starcraft2");
  TemporaryFolder folder;
  size_t frames = 0;
  for (const Replay& replay : read_replay_list(data / "replays/replays.csv")) {
    EXPECT_NE(replay.winner, 0);
    frames += read_entity_frames(replay.path).size();
  }
  EXPECT_EQ(frames, 393U);
  const auto start = read_entity_frames(data / "observations/AcropolisLE/units.csv");
  ASSERT_EQ(start.size(), 1U);
  EXPECT_GT(start[0].entities.size(), 100U);
}

TEST(EntityTaskShared, TheStarCraftRecipeFitsItsData) {
  PERCEIVER_SHARED_OR_SKIP(data, "data");
  const Recipe recipe =
      read_recipe(std::filesystem::path(PERCEIVER_SOURCE_DIR) / "recipes/starcraft2.json",
                  {.data = data, .overrides = {{"batch_size", "2"}}});
  const auto task = task_of(recipe);
  EXPECT_GT(task->test_examples(), 50);
  EXPECT_LE(task->training_batch(0).inputs.arrays.at("entities").size(1), 512);
}

}  // namespace
}  // namespace perceiver::train
