#include "perceiver/train/train.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/program.h"
#include "perceiver/base/str.h"
#include "perceiver/distributed/launch.h"

namespace perceiver::cli {
namespace {

constexpr int kStoppedBySignal = 3;
constexpr const char* kTrainDetails =
    "A recipe is one JSON file: model, data, loss, optimiser, schedule (recipes/ has examples,\n"
    "docs/training.md the keys). The output folder becomes a model folder.\n"
    "SIGINT or SIGTERM: saves a checkpoint and leaves with code 3 (a second one kills); --resume\n"
    "goes on, also after a crash.\n"
    "With --json stdout has one line per step, as in log.jsonl, and the result as its last.\n"
    "Started by torchrun, mpirun or Slurm, all processes train one model; rank 0 writes.";
constexpr const char* kEvalDetails =
    "Measures a model on the test part of the recipe's data: accuracy, or bits per masked byte.";

std::atomic<bool> stop_requested{false};
// Once: who sends a second one does not want to wait, and loses no more than a step.
extern "C" void request_stop(int signal) {
  stop_requested = true;
  std::signal(signal, SIG_DFL);
}

struct RecipeFlags {
  std::string recipe;
  std::string data;
  std::vector<std::string> set;
  int threads = 0;
  std::string device = "cpu";
};

struct TrainFlags {
  RecipeFlags recipe;
  std::string out;
  bool resume = false;
  bool restart = false;
  int loaders = 1;
  int64_t skip_bad = -1;
  bool input_parallel = false;
  int timeout = 30;
};

struct EvalFlags {
  RecipeFlags recipe;
  std::string model;
  int64_t limit = 0;
};

train::Recipe load_recipe(const RecipeFlags& flags) {
  train::RecipeOptions options;
  options.data = flags.data;
  for (const std::string& pair : flags.set) {
    const size_t equals = pair.find('=');
    if (equals == 0 || equals == std::string::npos) {
      throw UsageError(cat("--set takes key=value, not '", printable(pair), "'"));
    }
    options.overrides.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return train::read_recipe(flags.recipe, options);
}

Json metrics_json(const train::Metrics& metrics) {
  Json json = Json::object();
  for (const auto& [name, value] : metrics) {
    json[name] = value;
  }
  return json;
}

std::string metrics_text(const train::Metrics& metrics) {
  std::string text;
  for (const auto& [name, value] : metrics) {
    text += cat(text.empty() ? "" : ", ", name, " ", fixed(value, 4));
  }
  return text;
}

void show_start(const train::StartReport& start) {
  note(cat("starting from ", start.model.string(), ": ", start.taken.size(), " tensors taken, ",
           start.fresh.size(), " new, ", start.unused.size(),
           " of the model's not used (training/start.json lists them)"));
  for (const std::string& difference : start.notes) {
    note(difference);
  }
}

void show_step(const train::StepRecord& record, ProgressBar& bar) {
  const std::string line = cat("loss ", fixed(record.mean_loss, 4), "  ",
                               fixed(record.examples_per_second, 0), " examples/s");
  bar.show({"step", record.step, record.steps, line});
  if (!record.metrics.empty()) {
    bar.note(cat("step ", record.step, "/", record.steps, "  ", line, "  ",
                 metrics_text(record.metrics)));
  }
  if (output_mode().json) {
    print_json_line(train::to_json(record));
  }
}

void print_result(const std::string& out, const train::TrainResult& result) {
  if (output_mode().json) {
    print_json_line({{"out", out},
                     {"steps", result.steps},
                     {"stopped", result.stopped},
                     {"loss", result.loss},
                     {"seconds", result.seconds},
                     {"median_step_seconds", result.median_step_seconds},
                     {"examples_per_second", result.examples_per_second},
                     {"waiting_share", result.waiting_share},
                     {"peak_rss_bytes", result.peak_rss_bytes},
                     {"skipped_samples", result.skipped},
                     {"metrics", metrics_json(result.metrics)}});
    return;
  }
  if (result.skipped > 0) {
    note(cat(result.skipped, " unreadable sample(s) were left out"));
  }
  note(cat("median step ", fixed(1000 * result.median_step_seconds, 1), " ms, ",
           fixed(result.examples_per_second, 0), " examples/s, ", percent(result.waiting_share),
           " of the time waiting for data, peak memory ",
           byte_size(static_cast<double>(result.peak_rss_bytes))));
  std::cout << out << ": "
            << (result.stopped ? cat("stopped after ", result.steps, " steps; --resume goes on")
                               : cat(result.steps, " steps in ", duration(result.seconds), ", ",
                                     metrics_text(result.metrics)))
            << "\n";
}

int run_train(const TrainFlags& flags) {
  RecipeFlags chosen = flags.recipe;
  if (flags.skip_bad >= 0) {
    chosen.set.push_back(cat("skip_bad=", flags.skip_bad));
  }
  if (flags.input_parallel) {
    chosen.set.push_back("input_parallel=true");
  }
  const train::Recipe recipe = load_recipe(chosen);
  distributed::GroupOptions together;
  together.timeout = std::chrono::seconds(flags.timeout);
  const std::unique_ptr<distributed::Group> group = distributed::group_from_environment(together);
  const bool leads = group->rank() == 0;
  train::TrainOptions options;
  options.group = group.get();
  options.out = flags.out.empty() ? "runs/" + recipe.name : flags.out;
  options.resume = flags.resume;
  options.restart = flags.restart;
  options.num_loaders = flags.loaders;
  options.num_threads = flags.recipe.threads;
  options.stop = &stop_requested;
  options.device = flags.recipe.device;
  ProgressBar bar;
  if (leads) {
    options.progress = bar.callback();
    options.on_note = [&bar](const std::string& line) { bar.note(line); };
    options.on_step = [&bar](const train::StepRecord& record) { show_step(record, bar); };
    options.on_start = show_start;
  }
  if (leads && group->size() > 1) {
    note(group->description());
  }
  std::signal(SIGINT, request_stop);
  std::signal(SIGTERM, request_stop);
  const train::TrainResult result = train::train(recipe, options);
  bar.finish();
  if (leads) {
    print_result(options.out.string(), result);
  }
  return result.stopped ? kStoppedBySignal : 0;
}

int run_eval(const EvalFlags& flags) {
  const train::Recipe recipe = load_recipe(flags.recipe);
  train::EvalOptions options;
  options.limit = flags.limit;
  options.num_threads = flags.recipe.threads;
  options.device = flags.recipe.device;
  ProgressBar bar;
  options.progress = bar.callback();
  const train::EvalResult result = train::evaluate(recipe, flags.model, options);
  if (output_mode().json) {
    print_json({{"model", flags.model},
                {"examples", result.examples},
                {"metrics", metrics_json(result.metrics)}});
  } else {
    std::cout << metrics_text(result.metrics) << " (" << grouped(result.examples) << " examples)\n";
  }
  return 0;
}

void add_recipe_options(Verb* verb, RecipeFlags& flags) {
  verb->add_option("--data", flags.data, "Folder of the recipe's relative data paths")
      ->type_name("DIR");
  verb->add_option("--set", flags.set, "Override a key: optimiser.learning_rate=1e-3")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--threads", flags.threads, "CPU threads; 0 = all cores")
      ->type_name("N")
      ->check(Range(0, 4096));
  verb->add_option("--device", flags.device, "cpu, cuda or cuda:N")
      ->type_name("NAME")
      ->capture_default_str();
}

}  // namespace

void add_train(Program& program) {
  auto flags = std::make_shared<TrainFlags>();
  Verb* verb = program.add("train", "Train a model by a recipe", kTrainDetails);
  verb->add_option("recipe", flags->recipe.recipe, "Recipe file")->type_name("RECIPE")->required();
  verb->add_option("--out,-o", flags->out, "Model folder to write; default runs/<recipe name>")
      ->type_name("DIR");
  verb->add_flag("--resume", flags->resume, "Go on from the newest checkpoint in --out");
  verb->add_flag("--restart", flags->restart, "Replace the run that --out holds")
      ->excludes("--resume");
  verb->add_option("--loaders", flags->loaders, "Threads that prepare data; 0 = none")
      ->type_name("N")
      ->check(Range(0, 256));
  verb->add_option("--skip-bad", flags->skip_bad,
                   "Leave out up to N unreadable samples instead of stopping at the first")
      ->type_name("N")
      ->check(Range(int64_t{0}, int64_t{1} << 40));
  verb->add_flag("--input-parallel", flags->input_parallel,
                 "Several processes read parts of each input together (docs/many-machines.md)");
  verb->add_option("--timeout", flags->timeout,
                   "Several processes: seconds to wait for one that does not answer")
      ->type_name("S")
      ->capture_default_str()
      ->check(Range(1, 86400));
  add_recipe_options(verb, flags->recipe);
  program.on(verb, [flags] { return run_train(*flags); });
}

void add_eval(Program& program) {
  auto flags = std::make_shared<EvalFlags>();
  Verb* verb = program.add("eval", "Measure a model on a recipe's test data", kEvalDetails);
  verb->add_option("--model,-m", flags->model, "Model folder")->type_name("DIR")->required();
  verb->add_option("--recipe,-r", flags->recipe.recipe, "Recipe file")
      ->type_name("FILE")
      ->required();
  verb->add_option("--limit", flags->limit, "Use at most so many test examples; 0 = all")
      ->type_name("N")
      ->check(Range(int64_t{0}, int64_t{1} << 40));
  add_recipe_options(verb, flags->recipe);
  program.on(verb, [flags] { return run_eval(*flags); });
}

}  // namespace perceiver::cli
