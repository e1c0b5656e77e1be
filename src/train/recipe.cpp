#include "perceiver/train/recipe.h"

#include <algorithm>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/hugging_face.h"
#include "perceiver/spec/presets.h"
#include "train/fields.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

constexpr double kHuge = std::numeric_limits<double>::max();
constexpr int64_t kMaxSteps = int64_t{1} << 40;

// "a.b.c" = VALUE: JSON when VALUE parses as JSON, else a text.
void apply_override(Json& json, const std::string& key, const std::string& value) {
  Json* at = &json;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    const std::string part = key.substr(begin, end - begin);
    if (part.empty() || !(at->is_object() || at->is_null())) {
      throw Error(ErrorCode::kArgument, cat("--set ", printable(key), ": '", printable(part),
                                            "' names no key of the recipe"));
    }
    at = &(*at)[part];
    begin = end + 1;
  }
  Json parsed = Json::parse(value, nullptr, false);
  *at = parsed.is_discarded() ? Json(value) : std::move(parsed);
}

ModelSpec read_model(Fields fields, const std::filesystem::path& folder) {
  const bool has_spec = fields.has("spec");
  const bool has_preset = fields.has("preset");
  const bool has_config = fields.has("hugging_face");
  if (has_spec + has_preset + has_config != 1) {
    throw Error(ErrorCode::kFormat, cat(fields.where("spec"),
                                        ": give exactly one of spec (a spec or "
                                        "the path of one), preset, hugging_face (a config.json)"));
  }
  fields.finish();
  if (has_preset) {
    return preset(fields.text("preset", ""));
  }
  if (has_config) {
    return config_from_hugging_face(fields.at("hugging_face"), fields.where("hugging_face")).spec;
  }
  if (fields.at("spec").is_string()) {
    const std::filesystem::path path = resolve_path(fields.text("spec", ""), folder);
    return spec_from_json(read_json(path), path.string());
  }
  return spec_from_json(fields.at("spec"), fields.where("spec"));
}

InitSpec read_init(Fields fields) {
  InitSpec init;
  init.scheme = fields.choice("scheme", 0, {"deepmind", "transformers"}) == 0
                    ? InitScheme::kDeepMind
                    : InitScheme::kTransformers;
  init.initializer_range = fields.number("initializer_range", 0.02, 0, 100);
  init.embedding_scale = fields.number("embedding_scale", 1, 0, 1e6);
  init.sinusoidal_positions = fields.boolean("sinusoidal_positions", false);
  init.position_scale = fields.number("position_scale", 1, 0, 1e6);
  init.local_attention = fields.number("local_attention", 0, 0, 100);
  fields.finish();
  return init;
}

// A path, or {"model": path, "except": [name prefixes]}.
StartFrom read_start_from(Fields& recipe, const std::filesystem::path& folder) {
  StartFrom from;
  if (!recipe.has("start_from")) {
    return from;
  }
  if (recipe.at("start_from").is_string()) {
    from.model = resolve_path(recipe.text("start_from", ""), folder).lexically_normal();
    return from;
  }
  Fields fields = recipe.object("start_from");
  fields.at("model");
  from.model = resolve_path(fields.text("model", ""), folder).lexically_normal();
  if (fields.has("except")) {
    const Json& prefixes = fields.at("except");
    for (const Json& prefix : prefixes.is_array() ? prefixes : Json::array({nullptr})) {
      if (!prefix.is_string() || prefix.get<std::string>().empty()) {
        throw Error(ErrorCode::kFormat,
                    cat(fields.where("except"), " must be a list of beginnings of tensor names"));
      }
      from.except.push_back(prefix.get<std::string>());
    }
  }
  fields.finish();
  return from;
}

OptimiserSpec read_optimiser(Fields fields) {
  OptimiserSpec optimiser;
  constexpr OptimiserKind kKinds[] = {OptimiserKind::kAdamW, OptimiserKind::kLamb,
                                      OptimiserKind::kSgd};
  optimiser.kind = kKinds[fields.choice("kind", 0, {"adamw", "lamb", "sgd"})];
  optimiser.learning_rate = fields.number("learning_rate", optimiser.learning_rate, 0, kHuge);
  optimiser.beta1 = fields.number("beta1", optimiser.beta1, 0, 1 - 1e-9);
  optimiser.beta2 = fields.number("beta2", optimiser.beta2, 0, 1 - 1e-9);
  optimiser.epsilon = fields.number("epsilon", optimiser.epsilon, 0, kHuge);
  optimiser.weight_decay = fields.number("weight_decay", 0, 0, kHuge);
  if (optimiser.kind == OptimiserKind::kSgd) {
    optimiser.momentum = fields.number("momentum", optimiser.momentum, 0, 1 - 1e-9);
    optimiser.nesterov = fields.boolean("nesterov", false);
  }
  optimiser.clip_norm = fields.number("clip_norm", 0, 0, kHuge);
  fields.finish();
  return optimiser;
}

std::vector<int64_t> read_milestones(Fields& fields) {
  const Json& list = fields.at("milestones");
  std::vector<int64_t> milestones;
  bool fits = list.is_array() && !list.empty();
  for (size_t i = 0; fits && i < list.size(); ++i) {
    fits = list[i].is_number_integer() && list[i].get<int64_t>() > (i == 0 ? 0 : milestones.back());
    if (fits) {
      milestones.push_back(list[i].get<int64_t>());
    }
  }
  if (!fits) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("milestones"), " must be a list of rising step counts above 0"));
  }
  return milestones;
}

ScheduleSpec read_schedule(Fields fields, int64_t steps) {
  constexpr ScheduleKind kKinds[] = {ScheduleKind::kConstant, ScheduleKind::kCosine,
                                     ScheduleKind::kConstantCosine, ScheduleKind::kSteps};
  ScheduleSpec schedule;
  schedule.kind =
      kKinds[fields.choice("kind", 1, {"constant", "cosine", "constant_cosine", "steps"})];
  schedule.steps = fields.integer("steps", steps, 1, kMaxSteps);
  schedule.warmup_steps = fields.integer("warmup_steps", 0, 0, schedule.steps);
  schedule.constant_fraction = fields.number("constant_fraction", 0.5, 0, 1);
  schedule.end_fraction = fields.number("end_fraction", 0, 0, 1);
  if (schedule.kind == ScheduleKind::kSteps) {
    schedule.milestones = read_milestones(fields);
    schedule.step_factor = fields.number("step_factor", schedule.step_factor, 0, 1);
  }
  fields.finish();
  return schedule;
}

void read_task(Fields& fields, const std::filesystem::path& data, Recipe& recipe) {
  const std::vector<TaskKind>& kinds = task_kinds();
  std::vector<std::string> names;
  for (const TaskKind& kind : kinds) {
    names.emplace_back(kind.name);
  }
  fields.at("task");
  fields.at("data");
  const TaskKind& kind = kinds[fields.choice("task", 0, names)];
  recipe.task = kind.name;
  recipe.task_recipe = kind.read(fields, data);
  if (fields.has("preprocessor")) {
    recipe.preprocessor = fields.at("preprocessor");
  }
}

void read_arithmetic(Fields& fields, Recipe& recipe) {
  recipe.precision =
      fields.choice("precision", 0, {"fp32", "bf16"}) == 0 ? Precision::kF32 : Precision::kBF16;
  recipe.recompute = fields.boolean("recompute", false);
  const Compatibility& rules = recipe.model.compatibility;
  if (recipe.recompute && (rules.dropout > 0 || rules.attention_dropout > 0)) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("recompute"), " is true, but the model's dropout is ",
                    std::max(rules.dropout, rules.attention_dropout),
                    ": layers that draw random numbers cannot be made again"));
  }
}

void read_run(Fields& fields, Recipe& recipe) {
  fields.at("batch_size");
  fields.at("steps");
  recipe.batch_size = fields.integer("batch_size", 0, 1, 1 << 20);
  recipe.steps = fields.integer("steps", 0, 1, kMaxSteps);
  recipe.seed =
      static_cast<uint64_t>(fields.integer("seed", 0, 0, std::numeric_limits<int64_t>::max()));
  recipe.evaluate_every = fields.integer("evaluate_every", 0, 0, kMaxSteps);
  recipe.evaluate_limit = fields.integer("evaluate_limit", 0, 0, kMaxSteps);
  recipe.checkpoint_every = fields.integer("checkpoint_every", 0, 0, kMaxSteps);
  recipe.keep_checkpoints = fields.integer("keep_checkpoints", 2, 1, 1 << 20);
  recipe.keep_best = fields.text("keep_best", "");
  recipe.best_is_lowest = fields.boolean("best_is_lowest", false);
  if (!recipe.keep_best.empty() && recipe.evaluate_every == 0) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("keep_best"), " is ", printable(recipe.keep_best),
                    " but evaluate_every is 0: nothing would be compared"));
  }
  recipe.skip_bad = fields.integer("skip_bad", 0, 0, kMaxSteps);
  recipe.accumulate = fields.integer("accumulate", 1, 1, 1 << 20);
  recipe.input_parallel = fields.boolean("input_parallel", false);
  recipe.average_decay = fields.number("average_decay", 0, 0, 1 - 1e-12);
  read_arithmetic(fields, recipe);
  constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  recipe.save_dtype = kDTypes[fields.choice("save_dtype", 0, {"F32", "F16", "BF16"})];
}

}  // namespace

Recipe recipe_from_json(Json json, const std::filesystem::path& path,
                        const RecipeOptions& options) {
  const std::string where = printable(path.string());
  if (!json.is_object()) {
    throw Error(ErrorCode::kFormat,
                cat(where, ": a recipe is an object {...}, this is ", json.type_name()));
  }
  for (const auto& [key, value] : options.overrides) {
    apply_override(json, key, value);
  }
  const std::filesystem::path folder = path.parent_path();
  Recipe recipe;
  recipe.path = path;
  Fields fields(json, where);
  recipe.name = fields.text("name", path.stem().string());
  recipe.description = fields.text("description", "");
  fields.at("model");
  recipe.model = read_model(fields.object("model"), folder);
  recipe.init = read_init(fields.object("init"));
  recipe.start_from = read_start_from(fields, folder);
  read_run(fields, recipe);
  recipe.optimiser = read_optimiser(fields.object("optimiser"));
  recipe.schedule = read_schedule(fields.object("schedule"), recipe.steps);
  read_task(fields, options.data.empty() ? folder : options.data, recipe);
  fields.finish();
  recipe.source = json;
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& path, const RecipeOptions& options) {
  return recipe_from_json(read_json(path), path, options);
}

}  // namespace perceiver::train
