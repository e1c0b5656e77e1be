#include "cli/program.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "cli/output.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/presets.h"
#include "perceiver/tasks/forward.h"

namespace perceiver::cli {
namespace {

namespace fs = std::filesystem;

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

void add_model_options(Verb* verb, ModelOptions& options, const std::string& fallback) {
  Option model = verb->add_option(
      "--model,-m", options.model,
      "Model folder (config.json or spec.json beside its weights), or a Haiku pickle" +
          (fallback.empty() ? "" : "; by default the shipped " + fallback));
  model->type_name("DIR");
  if (fallback.empty()) {
    model->required();
  }
  add_engine_options(verb, options.choice);
}

void add_engine_options(Verb* verb, tasks::EngineChoice& choice) {
  verb->add_option("--engine", choice.engine,
                   "Engine: " + tasks::engine_names() +
                       "; auto takes runtime unless fp64 or a GPU is asked for")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"auto", "nn", "runtime"}));
  verb->add_option("--precision", choice.precision, "Arithmetic: fp32, bf16 or fp64")
      ->type_name("TYPE")
      ->capture_default_str()
      ->check(IsMember({"fp32", "bf16", "fp64"}));
  verb->add_option("--plan", choice.plan,
                   "Order of attention: auto, textbook, absorbed, factored (docs/plans.md)")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(IsMember({"auto", "textbook", "absorbed", "factored"}));
  verb->add_option("--device", choice.device, "cpu, cuda or cuda:N")
      ->type_name("NAME")
      ->capture_default_str();
  verb->add_option("--threads", choice.num_threads, "CPU threads; 0 = all cores")
      ->type_name("N")
      ->check(Range(0, 4096));
  verb->add_option(
          "--memory-budget",
          [&choice](const std::string& size) {
            try {
              choice.memory_budget = tasks::parse_bytes(size);
            } catch (const Error& error) {
              throw UsageError(cat("--memory-budget: ", error.what()));
            }
          },
          "Working memory of one block of tokens or rows, e.g. 512MiB")
      ->type_name("SIZE");
}

std::string models_folder() {
  std::error_code failure;
  const fs::path program = fs::read_symlink("/proc/self/exe", failure).parent_path();
  std::vector<fs::path> places{program / "../share/perceiver/models"};  // installed
  // Built in a folder of the source tree (build/bin, build/inference/bin), or run from it.
  for (const char* up : {"../..", "../../.."}) {
    places.push_back(program / up / "models");
  }
  places.emplace_back("models");
  for (const fs::path& place : places) {
    if (fs::is_directory(place / "demo", failure)) {
      return place.lexically_normal().string();
    }
  }
  throw Error(ErrorCode::kIo,
              cat("the shipped models were not found in ", places[0].lexically_normal().string(),
                  " or ", places[1].lexically_normal().string(), "; name one by --model"));
}

std::string embedded_model(const std::string& name) {
  const fs::path path = fs::path(models_folder()) / name;
  std::error_code failure;
  if (!fs::is_directory(path, failure)) {
    throw Error(ErrorCode::kIo, cat(path.string(),
                                    ": the shipped model is missing; name one by "
                                    "--model"));
  }
  return path.string();
}

ModelSpec named_preset(const std::string& name) {
  std::vector<std::string> names;
  for (const PresetInfo& info : preset_list()) {
    if (info.name == name) {
      return preset(name);
    }
    names.push_back(info.name);
  }
  const std::string nearest = nearest_word(name, names);
  throw UsageError(cat("unknown preset '", printable(name), "'",
                       nearest.empty() ? "" : cat("; did you mean '", nearest, "'?"),
                       " ('perceiver info' lists them)"));
}

std::string nearest_word(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    // "langage" means language-perceiver: its beginning counts too.
    const size_t distance = std::min({edit_distance(word, candidate),
                                      edit_distance(word, candidate.substr(0, word.size())),
                                      edit_distance(word, candidate.substr(0, word.size() + 1))});
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace perceiver::cli
