#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "train/task.h"

namespace perceiver::train {

/// What the pooled output tells of a whole set.
enum class PooledTarget {
  kPhase,   ///< which of the stretches of time between `phases` it is
  kWinner,  ///< which player wins
};

struct EntityDataSpec {
  std::filesystem::path replays;      ///< list of games
  std::vector<std::string> held_out;  ///< ids of games that are only measured on
  int64_t train_examples = 0;         ///< > 0: made-up frames instead
  int64_t test_examples = 0;
  double hidden = 0.15;  ///< share of the players' entities whose owner is hidden
  PooledTarget pooled = PooledTarget::kPhase;
  std::vector<double> phases{5, 10, 16};  ///< minutes
  double pooled_weight = 1;
  bool mirror = true;        ///< training: flips and quarter turns of the map
  bool swap_players = true;  ///< training: player 1 becomes 2
};

/// entity_sets: one set input of entities with a mask; an output whose queries are the entities
/// tells the owner of the hidden ones, an output of one row tells something of the whole set.
struct EntityRecipe : TaskRecipe {
  EntityDataSpec data;

  std::unique_ptr<Task> make(const Recipe& recipe, const ModelSpec& model,
                             TaskData part) const override;
};
std::shared_ptr<const TaskRecipe> read_entity_recipe(Fields& fields,
                                                     const std::filesystem::path& folder);

}  // namespace perceiver::train
