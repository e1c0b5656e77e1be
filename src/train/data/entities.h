#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/random.h"

namespace perceiver::train {

/// One unit, building or mineral field.
struct Entity {
  float x = 0, y = 0;
  int8_t owner = 0;     ///< 1, 2: the players; 0: nobody
  bool moved = false;   ///< its place was reported after the game began
  bool recent = false;  ///< ... and within the last minute
  uint32_t type = 0;    ///< hash of its type's name
};

/// Everything alive at one moment of a game: a set without order.
struct EntityFrame {
  double seconds = 0;  ///< since the game began
  int8_t winner = 0;   ///< 1, 2; 0: unknown
  std::vector<Entity> entities;
};

/// The frames of a table of entities, a CSV file, gzip or not, that names its columns in the first
/// line: `owner` (1 and 2 are players, all else nobody), `type` or `name`, `x`, `y`, and optionally
/// `t_s` (rows of equal t_s are one frame; without it all rows are) and `position_s` (when x, y was
/// reported). Coordinates become [-1, 1] by the extents of the whole file.
/// @throws Error(kIo); Error(kFormat) naming line and column
std::vector<EntityFrame> read_entity_frames(const std::filesystem::path& path);

/// One game of a list of replays.
struct Replay {
  std::string id;  ///< its frames lie in <folder of the list>/<id>.csv.gz
  std::filesystem::path path;
  int8_t winner = 0;
};
/// A CSV file with columns `id` and `winner` among others.
/// @throws Error(kIo), Error(kFormat) for an id that is no plain name
std::vector<Replay> read_replay_list(const std::filesystem::path& list);

/// The frame of a made-up game: two players with one to three camps in places of their own, units
/// near their owner's camps, minerals anywhere. Later frames have more units and other types.
/// @param limit  the largest number of entities
EntityFrame draw_entity_frame(int64_t limit, Random& random);

/// 32-bit FNV-1a.
uint32_t name_hash(std::string_view name);

}  // namespace perceiver::train
