#include "train/tasks/entity_task.h"

#include <algorithm>
#include <array>
#include <optional>

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/bad_samples.h"
#include "train/data/entities.h"
#include "train/data/epoch_order.h"
#include "train/losses.h"
#include "train/random.h"

namespace perceiver::train {
namespace {

constexpr const char* kTask = "entity_sets";
constexpr int64_t kTestBatch = 16;
constexpr int64_t kPlayers = 2;
// x, y, player 1, player 2, nobody, hidden, moved, recent; then the type's bucket, one-hot.
constexpr int64_t kFixedFeatures = 8;

/// A frame as the model sees it: which owners are hidden, and the answers.
struct Example {
  EntityFrame frame;
  std::vector<uint8_t> hidden;
};

void mirror(EntityFrame& frame, int64_t symmetry) {
  for (Entity& entity : frame.entities) {
    entity.x = (symmetry & 1) != 0 ? -entity.x : entity.x;
    entity.y = (symmetry & 2) != 0 ? -entity.y : entity.y;
    if ((symmetry & 4) != 0) {
      std::swap(entity.x, entity.y);
    }
  }
}

int8_t other_player(int8_t player) {
  return player == 0 ? int8_t{0} : static_cast<int8_t>(3 - player);
}

void swap_players(EntityFrame& frame) {
  frame.winner = other_player(frame.winner);
  for (Entity& entity : frame.entities) {
    entity.owner = other_player(entity.owner);
  }
}

// No more than `limit`: what belongs to nobody goes first.
void crop(EntityFrame& frame, int64_t limit) {
  if (std::cmp_greater(frame.entities.size(), limit)) {
    std::stable_partition(frame.entities.begin(), frame.entities.end(),
                          [](const Entity& entity) { return entity.owner != 0; });
    frame.entities.resize(static_cast<size_t>(limit));
  }
}

Example hide_owners(EntityFrame frame, double share, Random& random) {
  Example example;
  for (const Entity& entity : frame.entities) {
    example.hidden.push_back(entity.owner != 0 && random.uniform() < share ? 1 : 0);
  }
  example.frame = std::move(frame);
  return example;
}

// The rule to beat: a hidden entity belongs to whom the nearest one not hidden belongs to.
int8_t nearest_owner(const Example& example, const Entity& hidden) {
  float nearest = 1e30F;
  int8_t owner = 1;
  for (size_t i = 0; i < example.hidden.size(); ++i) {
    const Entity& entity = example.frame.entities[i];
    const float x = entity.x - hidden.x;
    const float y = entity.y - hidden.y;
    if (example.hidden[i] == 0 && entity.owner != 0 && x * x + y * y < nearest) {
      nearest = x * x + y * y;
      owner = entity.owner;
    }
  }
  return owner;
}

double share_of_most(const std::vector<int64_t>& counts, double n) {
  return static_cast<double>(*std::max_element(counts.begin(), counts.end())) / std::max(1.0, n);
}

class EntityTask : public Task {
 public:
  EntityTask(const Recipe& recipe, const EntityRecipe& own, const ModelSpec& model, TaskData part)
      : recipe_(recipe), data_(own.data), input_(only_input(model, InputKind::kSet, kTask)) {
    const int64_t features = input_.coordinates + input_.channels;
    if ((input_.coordinates != 0 && input_.coordinates != 2) || features <= kFixedFeatures) {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, ": input ", printable(input_.name), " has ", input_.coordinates,
                      " coordinates and ", input_.channels, " channels; entities have 0 or 2 ",
                      "coordinates and more than ", kFixedFeatures, " features altogether"));
    }
    buckets_ = static_cast<uint32_t>(features - kFixedFeatures);
    for (const OutputSpec& output : model.outputs) {
      take_output(model, output);
    }
    if (data_.train_examples == 0) {
      read_replays(part);
    }
    if (part == TaskData::kTrainAndTest) {
      order_.emplace(recipe.seed,
                     data_.train_examples > 0 ? data_.train_examples : count_of(train_));
    }
  }

  Batch training_batch(int64_t index) override {
    std::vector<Example> examples;
    for (int64_t i = 0; i < recipe_.batch_size; ++i) {
      const int64_t drawn = index * recipe_.batch_size + i;
      EntityFrame frame = frame_at(train_, order_->at(drawn));
      Random changes{recipe_.seed, kEntityAugment, static_cast<uint64_t>(drawn)};
      if (data_.mirror) {
        mirror(frame, changes.below(8));
      }
      if (data_.swap_players && changes.uniform() < 0.5) {
        swap_players(frame);
      }
      Random hiding{recipe_.seed, kEntityHidden, static_cast<uint64_t>(drawn)};
      examples.push_back(hide_owners(std::move(frame), data_.hidden, hiding));
    }
    return make_batch(examples);
  }

  // One mean runs over the hidden entities, one over the sets.
  Counts counts(const Batch& batch) const override {
    return {batch.mask.sum().item<double>(), static_cast<double>(batch.mask.size(0))};
  }

  at::Tensor loss(const nn::TensorMap& outputs, const Batch& batch,
                  const Shares& shares) const override {
    at::Tensor sum;
    if (!each_.empty()) {
      sum = masked_cross_entropy(outputs.at(each_), batch.targets.at(each_), batch.mask)
                .mul(shares.at(0));
    }
    if (!pooled_.empty()) {
      const at::Tensor whole = softmax_cross_entropy(outputs.at(pooled_), batch.targets.at(pooled_))
                                   .mul(shares.at(1) * data_.pooled_weight);
      sum = sum.defined() ? sum.add(whole) : whole;
    }
    return sum;
  }

  int64_t test_examples() const override {
    return data_.train_examples > 0 ? data_.test_examples : count_of(test_);
  }

  Metrics evaluate(nn::Model& model, int64_t limit, const ProgressFn& progress) const override {
    const c10::AutoGradMode no_gradients(false);
    const int64_t count = limit > 0 ? std::min(limit, test_examples()) : test_examples();
    Tally tally;
    tally.of_class.resize(static_cast<size_t>(pooled_classes()));
    for (int64_t begin = 0; begin < count; begin += kTestBatch) {
      const int64_t end = std::min(begin + kTestBatch, count);
      std::vector<Example> examples;
      for (int64_t i = begin; i < end; ++i) {
        Random hiding{kEntityTestHidden, static_cast<uint64_t>(i)};
        examples.push_back(
            hide_owners(frame_at(test_, data_.train_examples + i), data_.hidden, hiding));
      }
      const Batch batch = make_batch(examples);
      measure(examples, batch, model.forward(batch.inputs, batch.request), tally);
      if (progress) {
        progress({"evaluate", end, count, ""});
      }
    }
    return tally_metrics(tally, static_cast<double>(count));
  }

 private:
  struct Tally {
    double owner_correct = 0, nearest_correct = 0, hidden = 0, pooled_correct = 0;
    std::vector<int64_t> of_player = std::vector<int64_t>(kPlayers);
    std::vector<int64_t> of_class;
  };

  static int64_t count_of(const std::vector<EntityFrame>& frames) {
    return static_cast<int64_t>(frames.size());
  }

  int64_t pooled_classes() const {
    return data_.pooled == PooledTarget::kWinner ? kPlayers
                                                 : static_cast<int64_t>(data_.phases.size()) + 1;
  }

  void take_output(const ModelSpec& model, const OutputSpec& output) {
    const int64_t width = output_width(model, output);
    const bool of_inputs =
        output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent;
    if (of_inputs && width == kPlayers && each_.empty()) {
      each_ = output.name;
    } else if (output.single_row && width == pooled_classes() && pooled_.empty()) {
      pooled_ = output.name;
    } else {
      throw Error(ErrorCode::kArgument,
                  cat(kTask, ": output ", printable(output.name), " of width ", width,
                      " is neither one of the entities' owners (query input_tokens or ",
                      "input_content, width ", kPlayers, ") nor one row of ", pooled_classes(),
                      " classes of the set"));
    }
  }

  void read_replays(TaskData part) {
    const std::vector<Replay> replays = read_replay_list(data_.replays);
    for (const std::string& id : data_.held_out) {
      if (std::none_of(replays.begin(), replays.end(),
                       [&](const Replay& replay) { return replay.id == id; })) {
        throw Error(ErrorCode::kArgument,
                    cat(printable(data_.replays.string()), ": data.held_out names '",
                        printable(id, 40), "', which it does not list"));
      }
    }
    for (size_t i = 0; i < replays.size(); ++i) {
      const bool test = std::find(data_.held_out.begin(), data_.held_out.end(), replays[i].id) !=
                        data_.held_out.end();
      if (test || part == TaskData::kTrainAndTest) {
        add_replay(replays[i], test ? test_ : train_);
      }
    }
    if (test_.empty() || (part == TaskData::kTrainAndTest && train_.empty())) {
      throw Error(ErrorCode::kArgument,
                  cat(printable(data_.replays.string()), ": data.held_out leaves ", train_.size(),
                      " frames to train on and ", test_.size(), " to measure on"));
    }
  }

  // A replay that cannot be read is left out whole, if the recipe allows it.
  void add_replay(const Replay& replay, std::vector<EntityFrame>& frames) {
    std::vector<EntityFrame> read;
    try {
      read = read_entity_frames(replay.path);
      if (data_.pooled == PooledTarget::kWinner && replay.winner == 0) {
        throw Error(ErrorCode::kFormat,
                    cat(printable(replay.path.string()), ": the list of replays names no winner"));
      }
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kArgument || skipped_ >= recipe_.skip_bad) {
        throw;
      }
      ++skipped_;
      return;
    }
    for (EntityFrame& frame : read) {
      frame.winner = replay.winner;
      crop(frame, input_.index_dims[0]);
      frames.push_back(std::move(frame));
    }
  }

  int64_t skipped() const override { return skipped_; }

  EntityFrame frame_at(const std::vector<EntityFrame>& frames, int64_t index) const {
    if (data_.train_examples == 0) {
      return frames[static_cast<size_t>(index)];
    }
    Random random{recipe_.seed, kEntityFrames, static_cast<uint64_t>(index)};
    return draw_entity_frame(input_.index_dims[0], random);
  }

  int64_t pooled_label(const EntityFrame& frame) const {
    if (data_.pooled == PooledTarget::kWinner) {
      return frame.winner - 1;
    }
    return std::count_if(data_.phases.begin(), data_.phases.end(),
                         [&](double minutes) { return frame.seconds >= 60 * minutes; });
  }

  // No clock among the features: neither the time nor how old a report is.
  void write_features(const Entity& entity, bool hidden, float* out) const {
    const bool known = !hidden;
    const std::array<float, kFixedFeatures> fixed{entity.x,
                                                  entity.y,
                                                  known && entity.owner == 1 ? 1.0F : 0.0F,
                                                  known && entity.owner == 2 ? 1.0F : 0.0F,
                                                  entity.owner == 0 ? 1.0F : 0.0F,
                                                  hidden ? 1.0F : 0.0F,
                                                  entity.moved ? 1.0F : 0.0F,
                                                  entity.recent ? 1.0F : 0.0F};
    std::copy(fixed.begin(), fixed.end(), out);
    out[kFixedFeatures + entity.type % buckets_] = 1;
  }

  // As wide as the largest set of the batch; what is beyond a smaller one is masked.
  Batch make_batch(const std::vector<Example>& examples) const {
    const auto count = static_cast<int64_t>(examples.size());
    size_t longest = 1;
    for (const Example& example : examples) {
      longest = std::max(longest, example.hidden.size());
    }
    const auto length = static_cast<int64_t>(longest);
    const int64_t features = kFixedFeatures + buckets_;
    at::Tensor values = at::zeros({count, length, features}, at::kFloat);
    at::Tensor present = at::zeros({count, length}, at::kBool);
    at::Tensor hidden = at::zeros({count, length}, at::kBool);
    at::Tensor owners = at::zeros({count, length}, at::kLong);
    at::Tensor labels = at::zeros({count}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      const Example& example = examples[static_cast<size_t>(i)];
      labels.mutable_data_ptr<int64_t>()[i] = pooled_label(example.frame);
      for (size_t k = 0; k < example.hidden.size(); ++k) {
        const int64_t at = i * length + static_cast<int64_t>(k);
        const Entity& entity = example.frame.entities[k];
        const bool hides = example.hidden[k] != 0;
        write_features(entity, hides, values.mutable_data_ptr<float>() + at * features);
        present.mutable_data_ptr<bool>()[at] = true;
        hidden.mutable_data_ptr<bool>()[at] = hides;
        owners.mutable_data_ptr<int64_t>()[at] = hides ? entity.owner - 1 : 0;
      }
    }
    Batch batch;
    batch.inputs.arrays.emplace(input_.name, std::move(values));
    batch.inputs.masks.emplace(input_.name, present);
    if (!each_.empty()) {
      batch.request.query_masks.emplace(each_, present);
      batch.targets.emplace(each_, std::move(owners));
    }
    if (!pooled_.empty()) {
      batch.targets.emplace(pooled_, std::move(labels));
    }
    batch.mask = std::move(hidden);
    return batch;
  }

  void measure(const std::vector<Example>& examples, const Batch& batch,
               const nn::TensorMap& outputs, Tally& tally) const {
    for (const Example& example : examples) {
      ++tally.of_class[static_cast<size_t>(pooled_label(example.frame))];
      for (size_t i = 0; i < example.hidden.size(); ++i) {
        const Entity& entity = example.frame.entities[i];
        if (example.hidden[i] != 0) {
          ++tally.of_player[static_cast<size_t>(entity.owner - 1)];
          ++tally.hidden;
          tally.nearest_correct += nearest_owner(example, entity) == entity.owner ? 1 : 0;
        }
      }
    }
    if (!each_.empty()) {
      tally.owner_correct += count_correct(masked_rows(outputs.at(each_), batch.mask),
                                           masked_rows(batch.targets.at(each_), batch.mask));
    }
    if (!pooled_.empty()) {
      tally.pooled_correct += count_correct(outputs.at(pooled_), batch.targets.at(pooled_));
    }
  }

  // Beside each accuracy stand those of answers without a model.
  Metrics tally_metrics(const Tally& tally, double sets) const {
    Metrics metrics;
    if (!each_.empty()) {
      const double hidden = std::max(1.0, tally.hidden);
      metrics.emplace_back("owner_accuracy", tally.owner_correct / hidden);
      metrics.emplace_back("owner_nearest_accuracy", tally.nearest_correct / hidden);
      metrics.emplace_back("owner_majority_accuracy", share_of_most(tally.of_player, hidden));
    }
    if (!pooled_.empty()) {
      const std::string name = data_.pooled == PooledTarget::kWinner ? "winner" : "phase";
      metrics.emplace_back(name + "_accuracy", tally.pooled_correct / sets);
      metrics.emplace_back(name + "_majority_accuracy", share_of_most(tally.of_class, sets));
    }
    return metrics;
  }

  const Recipe& recipe_;
  const EntityDataSpec& data_;
  InputSpec input_;
  std::string each_, pooled_;  // output names; empty = the model has none
  uint32_t buckets_ = 1;
  std::vector<EntityFrame> train_, test_;
  int64_t skipped_ = 0;
  std::optional<EpochOrder> order_;
};

std::vector<double> read_phases(Fields& fields, std::vector<double> phases) {
  if (!fields.has("phases")) {
    return phases;
  }
  const Json& list = fields.at("phases");
  phases.clear();
  bool fits = list.is_array() && !list.empty() && list.size() <= 64;
  for (size_t i = 0; fits && i < list.size(); ++i) {
    fits = list[i].is_number() && list[i].get<double>() > (i == 0 ? 0 : phases.back());
    if (fits) {
      phases.push_back(list[i].get<double>());
    }
  }
  if (!fits) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("phases"), " must be a list of rising minutes above 0"));
  }
  return phases;
}

void read_source(Fields& fields, const std::filesystem::path& folder, EntityDataSpec& data) {
  const bool replays = fields.has("replays");
  const bool generated = fields.has("generated");
  if (replays + generated != 1) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("replays"), ": give exactly one of replays (with held_out) and ",
                    "generated"));
  }
  if (generated) {
    Fields frames = fields.object("generated");
    data.train_examples = frames.integer("train_examples", 4096, 1, 1 << 24);
    data.test_examples = frames.integer("test_examples", 512, 1, 1 << 24);
    frames.finish();
    return;
  }
  data.replays = existing_file(fields, "replays", folder);
  const Json& ids = fields.at("held_out");
  if (!ids.is_array() || ids.empty() ||
      !std::all_of(ids.begin(), ids.end(), [](const Json& id) { return id.is_string(); })) {
    throw Error(ErrorCode::kFormat,
                cat(fields.where("held_out"), " must be a list of ids of the list of replays"));
  }
  data.held_out = ids.get<std::vector<std::string>>();
}

EntityDataSpec read_entities(Fields fields, const std::filesystem::path& folder) {
  EntityDataSpec data;
  read_source(fields, folder, data);
  data.hidden = fields.number("hidden", data.hidden, 0.001, 0.999);
  data.pooled = fields.choice("pooled", 0, {"phase", "winner"}) == 0 ? PooledTarget::kPhase
                                                                     : PooledTarget::kWinner;
  data.phases = read_phases(fields, data.phases);
  data.pooled_weight = fields.number("pooled_weight", data.pooled_weight, 0, 1e6);
  data.mirror = fields.boolean("mirror", data.mirror);
  data.swap_players = fields.boolean("swap_players", data.swap_players);
  fields.finish();
  if (data.pooled == PooledTarget::kWinner && data.train_examples > 0) {
    throw Error(ErrorCode::kArgument,
                cat(fields.where("pooled"), " is winner, but made-up frames have none"));
  }
  return data;
}

}  // namespace

std::unique_ptr<Task> EntityRecipe::make(const Recipe& recipe, const ModelSpec& model,
                                         TaskData part) const {
  return std::make_unique<EntityTask>(recipe, *this, model, part);
}

std::shared_ptr<const TaskRecipe> read_entity_recipe(Fields& fields,
                                                     const std::filesystem::path& folder) {
  auto recipe = std::make_shared<EntityRecipe>();
  recipe->data = read_entities(fields.object("data"), folder);
  return recipe;
}

}  // namespace perceiver::train
