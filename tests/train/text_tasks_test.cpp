#include <cmath>

#include <gtest/gtest.h>

#include <ATen/Context.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/model.h"
#include "perceiver/tasks/bundle.h"
#include "support/shared.h"
#include "train/compute_model.h"
#include "train/data/text_examples.h"
#include "train/initial.h"
#include "train/tiny_run.h"

namespace perceiver::train {
namespace {

// Three tasks over one text input: is the first letter an a; are two texts equal; how many x.
Json recipe_json() {
  return Json::parse(R"({
    "name": "tiny-tasks", "task": "text_tasks",
    "model": {"spec": {
      "name": "tiny-tasks",
      "inputs": [{"name": "inputs", "kind": "text", "index_dims": [16], "vocab_size": 262,
                  "embedding_channels": 16, "position": {"kind": "trainable", "num_channels": 16, "use": "add"}}],
      "encoder": {"num_latents": 6, "latent_channels": 16, "self_attend": {"num_heads": 2},
                  "num_self_attends_per_block": 1},
      "decoder": {"final_project": false},
      "outputs": [
        {"name": "letter", "query": "learned", "index_dims": [1], "channels": 16, "head": "mlp",
         "head_channels": 2, "single_row": true},
        {"name": "same", "query": "learned", "index_dims": [1], "channels": 16, "head": "mlp",
         "head_channels": 2, "single_row": true},
        {"name": "count", "query": "learned", "index_dims": [1], "channels": 16, "head": "mlp",
         "head_channels": 1, "single_row": true}]}},
    "preprocessor": {"add_special_tokens": true},
    "init": {"embedding_scale": 0.3},
    "data": {
      "tasks": [
        {"name": "letter", "train": "letter.tsv", "test": "letter.tsv", "text": "text", "label": "label",
         "labels": ["b", "a"], "metrics": ["accuracy", "f1", "matthews", "majority"]},
        {"name": "same", "train": "same.csv", "format": "csv", "header": false, "text": [0, 1], "label": 2,
         "labels": ["no", "yes"]},
        {"name": "count", "kind": "regression", "train": "count.tsv", "text": "text", "label": "x",
         "metrics": ["pearson", "spearman", "rmse"], "held_out": 0.25, "weight": 0.5}],
      "sampling": "sqrt"},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip_norm": 1},
    "batch_size": 24, "steps": 150, "seed": 5})");
}

using test::metric;

class TextTasks : public test::Runs {
 protected:
  TextTasks() {
    std::string letter = "label\ttext\n";
    std::string same;
    std::string count = "text\tx\n";
    for (int i = 0; i < 60; ++i) {
      const std::string word = "cdefghij"[i % 8] + std::to_string(i);
      letter += (i % 3 == 0 ? "a\ta" : "b\tb") + word + "\n";
      same +=
          cat("\"", word, "\",", i % 2 == 0 ? word : "no", ",", i % 2 == 0 ? "yes" : "no", "\n");
      count +=
          std::string(static_cast<size_t>(i % 5), 'x') + "yz" + "\t" + std::to_string(i % 5) + "\n";
    }
    test::write_bytes(folder_ / "letter.tsv", letter);
    test::write_bytes(folder_ / "same.csv", same);
    test::write_bytes(folder_ / "count.tsv", count);
  }
};

TEST_F(TextTasks, OneModelLearnsThreeTasks) {
  const TrainResult result = run(recipe_json(), "out");
  EXPECT_GT(metric(result.metrics, "letter_accuracy"), 0.95);
  EXPECT_GT(metric(result.metrics, "letter_matthews"), 0.9);
  EXPECT_GT(metric(result.metrics, "letter_f1"), 0.9);
  EXPECT_NEAR(metric(result.metrics, "letter_majority"), 2.0 / 3, 1e-9);
  EXPECT_GT(metric(result.metrics, "same_accuracy"), metric(result.metrics, "same_majority"));
  EXPECT_GT(metric(result.metrics, "count_pearson"), 0.9);
  EXPECT_GT(metric(result.metrics, "count_spearman"), 0.9);
  EXPECT_LT(metric(result.metrics, "count_rmse"), 1);
  EXPECT_NEAR(metric(result.metrics, "average"),
              (metric(result.metrics, "letter_accuracy") + metric(result.metrics, "same_accuracy") +
               metric(result.metrics, "count_pearson")) /
                  3,
              1e-12);
  const EvalResult again = evaluate(read(recipe_json()), folder_ / "out");
  EXPECT_EQ(again.metrics, result.metrics);
  EXPECT_EQ(again.examples, 60 + 6 + 15);
}

// A model of several tasks can be measured on some of them.
TEST_F(TextTasks, EvalTakesOneTaskOfMany) {
  Json json = recipe_json();
  json["steps"] = 2;
  const TrainResult result = run(json, "out");
  json["data"]["tasks"].erase(1);
  json["data"]["tasks"].erase(1);
  const EvalResult letter = evaluate(read(json), folder_ / "out");
  EXPECT_DOUBLE_EQ(metric(letter.metrics, "accuracy"), metric(result.metrics, "letter_accuracy"));
}

TEST_F(TextTasks, MicroBatchesOfAnyMixtureEqualOneLargeBatch) {
  Json json = recipe_json();
  json["steps"] = 6;
  run(json, "whole");
  const std::vector<double> whole = std::exchange(losses_, {});
  json["batch_size"] = 3;
  json["accumulate"] = 8;
  run(json, "parts");
  ASSERT_EQ(whole.size(), losses_.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(losses_[i], whole[i], 2e-4 * std::abs(whole[i])) << "step " << i + 1;
  }
}

// What the loss of a batch says of an example must not depend on the other tasks' outputs.
TEST_F(TextTasks, AnExampleAsksItsOwnOutputOnly) {
  Json json = recipe_json();
  json["batch_size"] = 1;
  const Recipe recipe = read(json);
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  nn::Model model(recipe.model, initial_weights(recipe));
  model.parameters().requires_grad(true);
  const Batch batch = task->training_batch(0);
  task->loss(model.forward(batch.inputs, batch.request), batch, {1.0}).backward();
  int heads_with_gradient = 0;
  for (const char* name : {"letter", "same", "count"}) {
    const at::Tensor& gradient =
        model.parameters().at(cat("outputs.", name, ".head.1.bias")).grad();
    ASSERT_TRUE(gradient.defined()) << name;  // processes sum the same list of gradients
    heads_with_gradient += gradient.abs().sum().item<double>() > 0 ? 1 : 0;
  }
  EXPECT_EQ(heads_with_gradient, 1);
}

TEST_F(TextTasks, BatchesArePaddedToTheirLongestText) {
  const Recipe recipe = read(recipe_json());
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  const Batch batch = task->training_batch(3);
  const at::Tensor& ids = batch.inputs.arrays.at("inputs");
  const at::Tensor& mask = batch.inputs.masks.at("inputs");
  EXPECT_EQ(mask.sum(1).max().item<int64_t>(), ids.size(1));
  EXPECT_LT(ids.size(1), 16);
  EXPECT_TRUE(ids.eq(0).equal(mask.logical_not()));
  EXPECT_TRUE(ids.select(1, 0).eq(4).all().item<bool>());  // [CLS]
}

// The paper's other two forms of multi-task training: the answer is read where the input has
// [CLS], or a token of the task's own.
TEST_F(TextTasks, OutputsMayBeReadAtTheFirstToken) {
  Json json = recipe_json();
  Json& spec = json["model"]["spec"];
  for (Json& output : spec["outputs"]) {
    output["query"] = "input_tokens";
    output["of_input"] = "inputs";
    output.erase("channels");
    output.erase("index_dims");
    output.erase("single_row");
  }
  for (const bool own_token : {false, true}) {
    spec["inputs"][0]["vocab_size"] = own_token ? 265 : 262;
    json["data"]["first_token"] = own_token ? "task" : "cls";
    const TrainResult result = run(json, own_token ? "task" : "cls");
    EXPECT_GT(metric(result.metrics, "letter_accuracy"), 0.9) << own_token;
    EXPECT_GT(metric(result.metrics, "count_pearson"), 0.8) << own_token;
  }
}

TEST_F(TextTasks, SkipsBadRowsUpToTheLimit) {
  Json json = recipe_json();
  test::write_bytes(folder_ / "count.tsv", "text\tx\na\t1\nb\tx\nc\t2\nd\t3\ne\t4\n");
  expect_refused(json, "count.tsv: line 3: the label 'x' is no finite number");
  json["skip_bad"] = 1;
  json["steps"] = 1;
  EXPECT_EQ(run(json, "out").skipped, 1);
}

TEST_F(TextTasks, RefusesWhatDoesNotFitTheModel) {
  const auto changed = [](const char* pointer, const Json& value) {
    Json json = recipe_json();
    json[Json::json_pointer(pointer)] = value;
    return json;
  };
  expect_refused(changed("/data/tasks/0/name", "leter"),
                 "task leter needs output 'leter'; the model has: letter, same, count");
  expect_refused(changed("/data/tasks/0/labels", {"a", "b", "c"}),
                 "output letter has 2 channel(s), task letter needs 3");
  expect_refused(changed("/data/tasks/0/output", "same"), "output same belongs to more than one");
  expect_refused(changed("/data/tasks/1/name", "letter"), "every task needs a name of its own");
  expect_refused(changed("/data/tasks/0/metrics", {"pearson"}),
                 "holds \"pearson\"; known: accuracy, f1, matthews, majority");
  expect_refused(changed("/data/tasks/1/label", "label"), "header is false");
  expect_refused(changed("/data/tasks/0/label", "lable"), "no column 'lable'; it has label, text");
  expect_refused(changed("/model/spec/inputs/0/index_dims", {8}), "take more than the model's 8");
  expect_refused(changed("/preprocessor", Json::object()), "are told apart by [SEP]");
  expect_refused(changed("/data/first_token", "task"), "must be 265, is 262");
  Json json = recipe_json();
  json["data"]["tasks"].erase(2);
  expect_refused(json, "output count of the model belongs to no task");
  test::write_bytes(folder_ / "count.tsv", "text\tx\na\t1\n");
  expect_refused(recipe_json(), "held_out 0.25 of 1 rows leaves nothing to train on");
}

TEST_F(TextTasks, ClassWeightsFollowTheAnswersToAGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  Json json = recipe_json();
  json["data"]["tasks"][0]["class_weights"] = "balanced";
  const Recipe recipe = read(json);
  const auto task = test::task_of(recipe);
  nn::Model host(recipe.model, initial_weights(recipe));
  nn::Model device(recipe.model, initial_weights(recipe), {.device = at::kCUDA});
  const Batch batch = task->training_batch(0);
  const Batch moved = on_device(batch, at::kCUDA);
  const auto loss = [&](nn::Model& model, const Batch& of) {
    return task->loss(model.forward(of.inputs, of.request), of, std::vector<double>(1, 1.0))
        .item<double>();
  };
  EXPECT_NEAR(loss(device, moved), loss(host, batch), 1e-4);
}

// Of 60 examples 20 are an a: each weighs 60 / 2 / 20, a b 60 / 2 / 40.
TEST_F(TextTasks, BalancedClassesWeighAlikeTogether) {
  Json json = recipe_json();
  json["batch_size"] = 1;
  json["data"]["sampling"] = "equal";
  const Recipe equal = read(json);
  json["data"]["tasks"][0]["class_weights"] = "balanced";
  const Recipe balanced = read(json);
  const auto one = test::task_of(equal), other = test::task_of(balanced);
  nn::Model model(equal.model, initial_weights(equal));
  std::vector<int64_t> seen(2, 0);
  for (int64_t i = 0; i < 30; ++i) {
    const Batch batch = one->training_batch(i);
    const nn::TensorMap outputs = model.forward(batch.inputs, batch.request);
    const double ratio = other->loss(outputs, batch, {1.0}).item<double>() /
                         one->loss(outputs, batch, {1.0}).item<double>();
    if (!batch.mask[0][0].item<bool>()) {
      EXPECT_NEAR(ratio, 1, 1e-5);
      continue;
    }
    const auto label = batch.targets.at("letter")[0].item<int64_t>();
    EXPECT_NEAR(ratio, label == 1 ? 1.5 : 0.75, 1e-5);
    ++seen.at(static_cast<size_t>(label));
  }
  EXPECT_GT(std::min(seen[0], seen[1]), 0);
  json["data"]["tasks"][0]["labels"] = {"b", "a", "z"};
  json["model"]["spec"]["outputs"][0]["head_channels"] = 3;
  expect_refused(json, "no training example is labelled z");
}

TEST_F(TextTasks, CutsLongTextsWhenAsked) {
  Json json = recipe_json();
  json["model"]["spec"]["inputs"][0]["index_dims"] = {8};
  json["data"]["long_text"] = "cut";
  const Recipe recipe = read(json);
  const auto task = recipe.task_recipe->make(recipe, recipe.model, TaskData::kTrainAndTest);
  EXPECT_EQ(task->training_batch(0).inputs.arrays.at("inputs").size(1), 8);
}

TEST_F(TextTasks, GeneratedTasksStandBesideTables) {
  Json json = recipe_json();
  json["model"]["spec"]["inputs"][0]["index_dims"] = {64};
  std::string text;
  for (int i = 0; i < 300; ++i) {
    text += "the cat sat on mat " + std::to_string(i) + ".\n";
  }
  test::write_bytes(folder_ / "text", text);
  json["data"]["tasks"][2] = Json::parse(R"({
    "name": "count", "generate": "word_overlap", "files": [{"path": "text"}],
    "train_examples": 50, "test_examples": 20, "held_out": 0.3})");
  json["steps"] = 2;
  const TrainResult result = run(json, "out");
  EXPECT_GE(metric(result.metrics, "count_pearson"), -1);
  json["data"]["tasks"][2]["kind"] = "classification";
  expect_refused(json, "makes values: kind must be regression");
}

TEST_F(TextTasks, GeneratedClassesAreTheFiles) {
  Json json = recipe_json();
  json["model"]["spec"]["inputs"][0]["index_dims"] = {64};
  test::write_bytes(folder_ / "cats", std::string(900, 'c'));
  test::write_bytes(folder_ / "dogs", std::string(900, 'd'));
  Json& task = json["data"]["tasks"][1] = Json::parse(R"({
    "name": "same", "generate": "same_source", "files": [{"path": "cats"}, {"path": "dogs"}],
    "labels": ["different", "same"], "train_examples": 50, "test_examples": 20, "held_out": 0.3})");
  json["steps"] = 2;
  EXPECT_GE(metric(run(json, "out").metrics, "same_majority"), 0.5);
  task["generate"] = "source";
  task["labels"] = {"cats", "dogs", "mice"};
  expect_refused(json, "labels lists 3 words, must list 2, one for each of the files");
  task["labels"] = {"cats", "dogs"};
  task["kind"] = "regression";
  expect_refused(json, "makes classes: kind must be classification");
  task.erase("kind");
  task["files"].erase(1);
  expect_refused(json, "files holds 1 file, of which none can be told from another");
}

// Row counts are those of the files' own lines.
TEST(TextTasksShared, ReadsGlueAsItIs) {
  PERCEIVER_SHARED_OR_SKIP(glue, "data/language/glue");
  const auto count = [&](const char* name, bool header, const std::vector<Column>& text,
                         const Column& label) {
    TableSource source;
    source.format.header = header;
    source.text = text;
    source.label = label;
    source.labels = {"0", "1"};
    BadRows bad;
    return read_text_examples(glue / name, source, bad).size();
  };
  EXPECT_EQ(count("CoLA/in_domain_train.tsv", false, {{"", 3}}, {"", 1}), 8551U);
  EXPECT_EQ(count("CoLA/in_domain_dev.tsv", false, {{"", 3}}, {"", 1}), 527U);
  EXPECT_EQ(count("SST-2/train.tsv", false, {{"", 0}}, {"", 1}), 6920U);
  EXPECT_EQ(count("SST-2/dev.tsv", false, {{"", 0}}, {"", 1}), 872U);
  EXPECT_EQ(count("MRPC/msr_paraphrase_train.txt", true, {{"#1 String", 0}, {"#2 String", 0}},
                  {"Quality", 0}),
            4076U);
  EXPECT_EQ(count("RTE/train.tsv", true, {{"sentence1", 0}, {"sentence2", 0}}, {"label", 0}),
            2490U);
  EXPECT_EQ(count("RTE/dev.tsv", true, {{"sentence1", 0}, {"sentence2", 0}}, {"label", 0}), 277U);
}

}  // namespace
}  // namespace perceiver::train
