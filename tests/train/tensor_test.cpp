#include <cmath>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "train/random.h"
#include "train/tasks/tensor_losses.h"
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

// Reads a series of 8 x 2 and a set of up to 4 numbers; tells a class of 3, two yes-no answers and
// four values.
Json tensor_recipe() {
  return Json::parse(R"({
    "name": "tiny-tensors", "task": "tensors",
    "model": {"spec": {
      "name": "tiny-tensors",
      "inputs": [{"name": "series", "kind": "grid", "index_dims": [8], "channels": 2,
                  "position": {"kind": "fourier", "num_bands": 2}},
                 {"name": "bag", "kind": "set", "index_dims": [4], "channels": 1}],
      "pad_inputs": true,
      "encoder": {"num_latents": 4, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"cross_attend": {"use_query_residual": true}, "output_channels": 16,
                  "pad_queries": true},
      "outputs": [{"name": "kind", "query": "learned", "index_dims": [1], "channels": 16,
                   "head": "linear", "head_channels": 3, "single_row": true},
                  {"name": "flags", "query": "learned", "index_dims": [1], "channels": 16,
                   "head": "linear", "head_channels": 2, "single_row": true},
                  {"name": "next", "query": "learned", "index_dims": [4], "channels": 16,
                   "head": "linear", "head_channels": 1}]}},
    "data": {"train": "train.safetensors", "test": "test.safetensors",
             "inputs": {"series": {"array": "x", "mean": 1, "deviation": 2},
                        "bag": {"array": "bag", "mask": "there"}},
             "outputs": {"kind": {"array": "y", "loss": "cross_entropy"},
                         "flags": {"array": "f", "loss": "binary"},
                         "next": {"array": "z", "loss": "mse", "mask": "known"}}},
    "optimiser": {"learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 16, "steps": 120, "seed": 5})");
}

// The class is which of three levels the series lies at, the flags say whether the sum of the bag
// is above 0 and whether its first element is there, the values are the level again.
ArrayMap examples(int64_t count, uint64_t seed) {
  Random random{seed};
  std::vector<float> x, bag, z;
  std::vector<uint8_t> there, flags, known;
  std::vector<int32_t> y;
  for (int64_t i = 0; i < count; ++i) {
    const auto level = static_cast<int32_t>(random.below(3));
    y.push_back(level);
    for (int k = 0; k < 16; ++k) {
      x.push_back(static_cast<float>(2 * level + random.uniform(-0.5, 0.5)));
    }
    double sum = 0;
    for (int k = 0; k < 4; ++k) {
      const double value = random.uniform(-1, 1);
      const bool is_there = k == 1 || random.uniform() < 0.5;
      bag.push_back(static_cast<float>(value));
      there.push_back(is_there);
      sum += is_there ? value : 0;
      z.push_back(k == 3 ? 1e6F : static_cast<float>(level));
      known.push_back(k != 3);
    }
    flags.push_back(sum > 0);
    flags.push_back(bag[bag.size() - 3] > 0);
  }
  return {{"x", Array::of<float>({count, 8, 2}, x)},
          {"bag", Array::of<float>({count, 4, 1}, bag)},
          {"there", Array::of<uint8_t>({count, 4}, there)},
          {"y", Array::of<int32_t>({count}, y)},
          {"f", Array::of<uint8_t>({count, 2}, flags)},
          {"z", Array::of<float>({count, 4, 1}, z)},
          {"known", Array::of<uint8_t>({count, 4}, known)}};
}

std::string npy(const Array& array, const std::string& descr) {
  std::string header = cat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (");
  for (const int64_t extent : array.shape()) {
    header += cat(extent, ", ");
  }
  header += "), }";
  header.resize((header.size() + 10 + 63) / 64 * 64 - 10, ' ');
  return std::string("\x93NUMPY\x01\0", 8) + static_cast<char>(header.size()) + '\0' + header +
         std::string(reinterpret_cast<const char*>(array.bytes()),
                     static_cast<size_t>(array.nbytes()));
}

class TensorTask : public ::testing::Test {
 protected:
  TensorTask() {
    write("train", examples(300, 1));
    write("test", examples(60, 2));
  }
  void write(const std::string& part, const ArrayMap& arrays) {
    io::write_safetensors(folder_ / (part + ".safetensors"), arrays);
  }
  // One array of the training part replaced.
  void expect_array_refused(const std::string& name, const Array& array,
                            const std::string& message) {
    ArrayMap arrays = examples(300, 1);
    arrays[name] = array;
    write("train", arrays);
    expect_refused(folder_, json_, message);
  }

  TemporaryFolder folder_;
  Json json_ = tensor_recipe();
};

TEST_F(TensorTask, LearnsSeveralOutputsOfSeveralInputs) {
  const TrainResult result = run_in(folder_, json_);
  ASSERT_EQ(result.metrics.size(), 8U);
  EXPECT_GT(metric(result.metrics, "kind_accuracy"), 0.95);
  EXPECT_LT(metric(result.metrics, "kind_majority_accuracy"), 0.6);
  EXPECT_GT(metric(result.metrics, "flags_accuracy"),
            metric(result.metrics, "flags_majority_accuracy") + 0.15);
  EXPECT_LT(metric(result.metrics, "next_rmse"), 0.5 * metric(result.metrics, "next_mean_rmse"));
  EXPECT_LT(metric(result.metrics, "next_mean_rmse"), 1) << "masked values do not count";
}

TEST_F(TensorTask, NpyFilesAreTheSame) {
  const double wanted = run_in(folder_, json_, "safetensors").loss;
  const std::map<std::string, std::string> kinds{{"x", "<f4"},    {"bag", "<f4"}, {"there", "|u1"},
                                                 {"y", "<i4"},    {"f", "|u1"},   {"z", "<f4"},
                                                 {"known", "|u1"}};
  for (const std::string part : {"train", "test"}) {
    json_["data"][part] = Json::object();
    for (const auto& [name, array] :
         examples(part == "train" ? 300 : 60, part == "train" ? 1 : 2)) {
      write_bytes(folder_ / (part + name + ".npy"), npy(array, kinds.at(name)));
      json_["data"][part][name] = part + name + ".npy";
    }
  }
  EXPECT_EQ(run_in(folder_, json_, "npy").loss, wanted);
}

TEST_F(TensorTask, BatchesAreRowsOfTheArrays) {
  const Recipe recipe = recipe_in(folder_, json_);
  const auto task = task_of(recipe);
  const Batch batch = task->training_batch(2);
  const at::Tensor& x = batch.inputs.arrays.at("series");
  EXPECT_EQ(x.sizes(), (at::IntArrayRef{16, 8, 2}));
  // (value - 1) / 2, so its mean is the level - 0.5
  const at::Tensor level = x.mean({1, 2}).add(0.5).round().to(at::kLong);
  EXPECT_TRUE(level.equal(batch.targets.at("kind")));
  EXPECT_EQ(batch.inputs.masks.at("bag").scalar_type(), at::kBool);
  EXPECT_EQ(task->counts(batch), (Counts{32, 16, 48}));
}

TEST_F(TensorTask, MicroBatchesEqualOneLargeBatch) {
  json_["steps"] = 5;
  const double whole = run_in(folder_, json_, "whole").loss;
  json_["batch_size"] = 4;
  json_["accumulate"] = 4;
  EXPECT_NEAR(run_in(folder_, json_, "parts").loss, whole, 2e-4 * whole);
}

TEST_F(TensorTask, AHeldOutShareIsTheSameForEverySeed) {
  json_["data"].erase("test");
  json_["data"]["held_out"] = 0.25;
  json_["steps"] = 1;
  const Recipe recipe = recipe_in(folder_, json_);
  const int64_t held_out = task_of(recipe)->test_examples();
  EXPECT_NEAR(static_cast<double>(held_out), 75, 25);
  EXPECT_EQ(task_of(recipe, TaskData::kTestOnly)->test_examples(), held_out);
  const double majority = metric(run_in(folder_, json_, "a").metrics, "kind_majority_accuracy");
  json_["seed"] = 6;
  EXPECT_EQ(metric(run_in(folder_, json_, "b").metrics, "kind_majority_accuracy"), majority);
}

TEST_F(TensorTask, RefusesArraysThatDoNotFitNamingFileArrayAndShapes) {
  expect_array_refused(
      "x", Array::zeros(DType::kF32, {300, 8, 3}),
      "train.safetensors is F32 [n, 8, 3], the model's input series reads [n, 8, 2]");
  expect_array_refused("bag", Array::zeros(DType::kF32, {300, 5, 1}), "reads [n, up to 4, 1]");
  expect_array_refused("y", Array::zeros(DType::kI32, {300, 1}),
                       "is [n, 1]; output kind is [n, 3] and its target [n]");
  expect_array_refused("z", Array::zeros(DType::kF32, {300, 4}),
                       "is [n, 4]; output next is [n, 4, 1] and its target [n, 4, 1]");
  expect_array_refused("f", Array::zeros(DType::kU8, {299, 2}),
                       "holds 299 examples, array 'bag' of");
  expect_array_refused("there", Array::zeros(DType::kU8, {300, 3}), "a mask of bag is [n, 4]");
  expect_array_refused("known", Array::zeros(DType::kU8, {300, 4, 2}),
                       "a mask of next is [n, 4, 1]");
  expect_array_refused("x", Array::of<float>({}, {1}), "single number");
}

TEST_F(TensorTask, RefusesClassesAndAnswersOutOfRange) {
  Array labels = examples(300, 1).at("y").clone();
  labels.mutable_data<int32_t>()[250] = 3;
  expect_array_refused("y", labels, "holds 3; output kind tells classes 0 to 2");
  labels.mutable_data<int32_t>()[250] = -1;
  expect_array_refused("y", labels, "holds -1");
  Array flags = examples(300, 1).at("f").clone();
  flags.mutable_data<uint8_t>()[7] = 2;
  expect_array_refused("f", flags, "holds 2; output flags tells answers between 0 and 1");
}

TEST_F(TensorTask, RefusesNamesThatAreNotThere) {
  const auto refused = [&](const std::string& pointer, const Json& value, const std::string& why) {
    Json json = json_;
    json["data"][Json::json_pointer(pointer)] = value;
    expect_refused(folder_, json, why);
  };
  refused("/inputs/series", "xx", "data.inputs.series names array 'xx'; there are: bag, f, known");
  refused("/inputs/serie", "x", "serie");
  refused("/outputs/kind/los", "mse", "did you mean 'loss'?");
  refused("/outputs/kind/loss", "hinge", "must be one of: cross_entropy");
  refused("/outputs/kind/queries", "x", "this output has queries of its own");
  refused("/train", "nowhere.safetensors", "no file");
  refused("/train", Json::object(), "names no file");
  refused("/outputs", Json::object(), "is empty");
  refused("/held_out", 0.1, "unknown key 'held_out'");
  Json json = json_;
  json["data"]["inputs"].erase("bag");
  expect_refused(folder_, json, "no array for the model's input bag");
  write_bytes(folder_ / "bad.npy", "nothing");
  refused("/train", {{"x", "bad.npy"}}, "bad.npy: not an npy file");
}

TEST(TensorLosses, AreMeansOverWhatCounts) {
  const at::Tensor given = at::tensor({1.0, 2.0, 3.0, 4.0}).view({2, 2}).to(at::kFloat);
  const Target wanted{at::tensor({0.0, 0.0, 0.0, 0.0}).view({2, 2}).to(at::kFloat),
                      at::tensor({1, 0, 1, 0}).view({2, 2}).to(at::kBool)};
  TensorOutput output;
  output.loss = TensorLoss::kMse;
  EXPECT_FLOAT_EQ(mean_loss(output, given, wanted).item<float>(), 5);
  output.loss = TensorLoss::kL1;
  EXPECT_FLOAT_EQ(mean_loss(output, given, wanted).item<float>(), 2);
  output.loss = TensorLoss::kBinary;  // log(1 + e^x) for an answer of no
  EXPECT_NEAR(mean_loss(output, given, wanted).item<float>(),
              (std::log1p(std::exp(1.0)) + std::log1p(std::exp(3.0))) / 2, 1e-5);
  output.loss = TensorLoss::kCrossEntropy;
  const Target classes{at::tensor({1, 0}).to(at::kLong), at::tensor({1, 0}).to(at::kBool)};
  EXPECT_NEAR(mean_loss(output, given, classes).item<float>(), std::log1p(std::exp(-1.0)), 1e-6);
  const Target nothing{classes.values, at::tensor({0, 0}).to(at::kBool)};
  EXPECT_EQ(mean_loss(output, given, nothing).item<float>(), 0);
}

TEST(TensorLosses, TheBestConstantAnswerStandsBeside) {
  TensorOutput output;
  output.output = "y";
  output.loss = TensorLoss::kMse;
  OutputTally tally(output);
  const Target wanted{at::tensor({1.0, 3.0}).view({2, 1}).to(at::kFloat),
                      at::tensor({1, 1}).view({2, 1}).to(at::kBool)};
  tally.learn(wanted);
  tally.add(wanted.values + 2, wanted);
  const Metrics metrics = tally.metrics();
  EXPECT_FLOAT_EQ(static_cast<float>(metric(metrics, "y_rmse")), 2);
  EXPECT_FLOAT_EQ(static_cast<float>(metric(metrics, "y_mean_rmse")), 1);
}

}  // namespace
}  // namespace perceiver::train
