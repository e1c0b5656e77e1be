// Reads what a recipe says of text_tasks.
#include <algorithm>
#include <set>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/tasks/text_fields.h"
#include "train/tasks/text_tasks.h"

namespace perceiver::train {
namespace {

constexpr int64_t kMaxExamples = int64_t{1} << 24;

// A column: its name, or its number from 0.
Column read_column(const Json& json, const std::string& where) {
  if (json.is_string() && !json.get<std::string>().empty()) {
    return {json.get<std::string>(), 0};
  }
  if (json.is_number_integer() && json.get<int64_t>() >= 0) {
    return {"", json.get<int64_t>()};
  }
  throw Error(ErrorCode::kFormat, cat(where, " must be a column's name or its number from 0, is ",
                                      printable(json.dump(), 60)));
}

std::vector<Column> read_text_columns(Fields& fields) {
  const Json& json = fields.at("text");
  const Json list = json.is_array() ? json : Json::array({json});
  if (list.empty() || list.size() > 2) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("text"), " names ", list.size(), " columns, must be one or two"));
  }
  std::vector<Column> columns;
  for (const Json& column : list) {
    columns.push_back(read_column(column, fields.where("text")));
  }
  return columns;
}

// The words for metrics that fit the kind of task.
struct MetricWord {
  const char* word;
  TextMetric metric;
  bool regression;
};
constexpr MetricWord kMetricWords[] = {
    {"accuracy", TextMetric::kAccuracy, false}, {"f1", TextMetric::kF1, false},
    {"matthews", TextMetric::kMatthews, false}, {"majority", TextMetric::kMajority, false},
    {"pearson", TextMetric::kPearson, true},    {"spearman", TextMetric::kSpearman, true},
    {"rmse", TextMetric::kRmse, true}};

std::vector<TextMetric> read_metrics(Fields& fields, bool regression) {
  if (!fields.has("metrics")) {
    return regression ? std::vector{TextMetric::kPearson, TextMetric::kSpearman}
                      : std::vector{TextMetric::kAccuracy, TextMetric::kMajority};
  }
  const Json& json = fields.at("metrics");
  std::vector<TextMetric> metrics;
  std::string known;
  for (const MetricWord& word : kMetricWords) {
    known += word.regression == regression ? cat(known.empty() ? "" : ", ", word.word) : "";
  }
  for (const Json& asked : json.is_array() ? json : Json::array()) {
    const auto found =
        std::find_if(std::begin(kMetricWords), std::end(kMetricWords), [&](const MetricWord& word) {
          return word.regression == regression && asked.is_string() && asked == word.word;
        });
    if (found == std::end(kMetricWords)) {
      throw Error(ErrorCode::kFormat, cat(fields.where("metrics"), " holds ",
                                          printable(asked.dump(), 40), "; known: ", known));
    }
    metrics.push_back(found->metric);
  }
  if (metrics.empty()) {
    throw Error(ErrorCode::kFormat, cat(fields.where("metrics"), " must list some of: ", known));
  }
  return metrics;
}

void read_table(Fields& fields, const std::filesystem::path& folder, TextTaskSpec& task) {
  task.train = existing_file(fields, "train", folder);
  if (fields.has("test")) {
    task.test = existing_file(fields, "test", folder);
  } else {
    task.held_out = fields.number("held_out", task.held_out, 1e-6, 0.9);
  }
  const bool csv = fields.choice("format", 0, {"tsv", "csv"}) == 1;
  task.table.format.separator = csv ? ',' : '\t';
  task.table.format.header = fields.boolean("header", true);
  task.table.format.quoted = fields.boolean("quoted", csv);
  task.table.text = read_text_columns(fields);
  task.table.label = read_column(fields.at("label"), fields.where("label"));
  for (const Column& column : {task.table.text.front(), task.table.text.back(), task.table.label}) {
    if (!task.table.format.header && !column.name.empty()) {
      throw Error(ErrorCode::kArgument,
                  cat(fields.where("header"), " is false, so column '", printable(column.name, 40),
                      "' must be given by its number from 0"));
    }
  }
}

void read_generated(Fields& fields, const std::filesystem::path& folder, TextTaskSpec& task) {
  GeneratedTexts& made = task.generated.emplace();
  constexpr TextQuestion kQuestions[] = {TextQuestion::kWordOverlap, TextQuestion::kVowelShare,
                                         TextQuestion::kSource, TextQuestion::kSameSource};
  made.question = kQuestions[fields.choice(
      "generate", 0, {"word_overlap", "vowel_share", "source", "same_source"})];
  made.text.files = read_text_files(fields, folder);
  if (asks_class(made.question) && made.text.files.size() < 2) {
    throw Error(ErrorCode::kArgument, cat(fields.where("files"), " holds ", made.text.files.size(),
                                          " file, of which none can be told from another"));
  }
  made.text.held_out = fields.number("held_out", made.text.held_out, 1e-6, 0.9);
  made.train_examples = fields.integer("train_examples", 10000, 1, kMaxExamples);
  made.test_examples = fields.integer("test_examples", 500, 1, kMaxExamples);
}

void read_classes(Fields& fields, TextTaskSpec& task) {
  task.labels = read_label_words(fields);
  task.table.labels = task.labels;
  task.balanced = fields.choice("class_weights", 0, {"equal", "balanced"}) == 1;
  if (!task.generated) {
    return;
  }
  const bool pairs = asks_pairs(task.generated->question);
  const size_t classes = pairs ? 2 : task.generated->text.files.size();
  if (task.labels.size() != classes) {
    throw Error(
        ErrorCode::kArgument,
        cat(fields.where("labels"), " lists ", task.labels.size(), " words, must list ", classes,
            pairs ? ": of other files, of the same" : ", one for each of the files"));
  }
}

TextTaskSpec read_text_task(Fields fields, const std::filesystem::path& folder) {
  TextTaskSpec task;
  fields.at("name");
  task.name = fields.text("name", "");
  task.output = fields.text("output", "");
  const bool generated = fields.has("generate");
  if (generated) {
    read_generated(fields, folder, task);
  } else {
    read_table(fields, folder, task);
  }
  const bool value = generated && !asks_class(task.generated->question);
  const bool regression =
      fields.choice("kind", value ? 1 : 0, {"classification", "regression"}) == 1;
  if (generated && regression != value) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("generate"), " makes ", value ? "values" : "classes",
                    ": kind must be ", value ? "regression" : "classification"));
  }
  if (!regression) {
    read_classes(fields, task);
  }
  task.weight = fields.number("weight", 1, 1e-9, 1e9);
  task.metrics = read_metrics(fields, regression);
  fields.finish();
  return task;
}

}  // namespace

std::shared_ptr<const TaskRecipe> read_text_tasks_recipe(Fields& fields,
                                                         const std::filesystem::path& folder) {
  auto recipe = std::make_shared<TextTasksRecipe>();
  Fields data = fields.object("data");
  const Json& tasks = data.at("tasks");
  if (!tasks.is_array() || tasks.empty()) {
    throw Error(ErrorCode::kFormat, cat(data.where("tasks"), " must be a list of tasks {...}"));
  }
  std::set<std::string> names;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const std::string where = cat(data.where("tasks"), "[", i, "]");
    const TextTaskSpec& task =
        recipe->tasks.emplace_back(read_text_task(Fields(tasks[i], where), folder));
    if (task.name.empty() || !names.insert(task.name).second) {
      throw Error(ErrorCode::kArgument, cat(where, ".name is '", printable(task.name, 40),
                                            "': every task needs a name of its own"));
    }
  }
  constexpr Sampling kSamplings[] = {Sampling::kSize, Sampling::kSqrt, Sampling::kEqual};
  recipe->sampling = kSamplings[data.choice("sampling", 0, {"size", "sqrt", "equal"})];
  recipe->task_token = data.choice("first_token", 0, {"cls", "task"}) == 1;
  recipe->cut_long = data.choice("long_text", 0, {"refuse", "cut"}) == 1;
  data.finish();
  return recipe;
}

}  // namespace perceiver::train
