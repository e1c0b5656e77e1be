#include "train/data/entities.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/data/idx.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{512} << 20;
constexpr size_t kMaxFields = 4096;
constexpr double kRecentSeconds = 60;

/// A CSV file without quotes (names in these files hold neither commas nor quotes), line by line,
/// cells by the names of the heading.
class Table {
 public:
  explicit Table(const std::filesystem::path& path)
      : where_(printable(path.string())), bytes_(read_maybe_gzip(path, kMaxBytes)), rest_(bytes_) {
    if (!next_line()) {
      throw Error(ErrorCode::kFormat, where_ + ": an empty file, not a table");
    }
    heading_ = cells_;
  }

  /// The next row; false at the end. @throws Error(kFormat) for another number of cells
  bool next() {
    if (!next_line()) {
      return false;
    }
    if (cells_.size() != heading_.size()) {
      refuse(cat(cells_.size(), " cells under ", heading_.size(), " headings"));
    }
    return true;
  }

  /// Number of a column, -1 if the file has none of that name.
  int64_t find(std::string_view name) const {
    const auto found = std::find(heading_.begin(), heading_.end(), name);
    return found == heading_.end() ? -1 : found - heading_.begin();
  }
  int64_t need(std::string_view name) const {
    const int64_t column = find(name);
    if (column < 0) {
      throw Error(ErrorCode::kFormat, cat(where_, ": has no column '", name, "'"));
    }
    return column;
  }

  std::string_view text(int64_t column) const { return cells_[static_cast<size_t>(column)]; }
  double number(int64_t column) const {
    const std::string_view cell = text(column);
    double value = 0;
    const auto [end, problem] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (problem != std::errc() || end != cell.data() + cell.size() || !(std::fabs(value) < 1e9)) {
      refuse(cat(printable(heading_[static_cast<size_t>(column)], 40), " is '", printable(cell, 40),
                 "', not a number"));
    }
    return value;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kFormat, cat(where_, ", line ", number_, ": ", why));
  }

 private:
  bool next_line() {
    if (rest_.empty()) {
      return false;
    }
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    ++number_;
    cells_.clear();
    for (size_t begin = 0; begin <= line.size();) {
      if (cells_.size() == kMaxFields) {
        refuse(cat("more than ", kMaxFields, " fields"));
      }
      const size_t comma = std::min(line.find(',', begin), line.size());
      cells_.push_back(line.substr(begin, comma - begin));
      begin = comma + 1;
    }
    return true;
  }

  std::string where_, bytes_;
  std::string_view rest_;
  std::vector<std::string_view> heading_, cells_;
  int64_t number_ = 0;
};

// 1 or 2, or 0 for all else.
int8_t player(std::string_view cell) {
  return cell == "1" ? 1 : cell == "2" ? 2 : 0;
}

// Both axes by the larger extent, so that distances keep their proportions.
void normalise(std::vector<EntityFrame>& frames) {
  float low[2] = {1e9F, 1e9F};
  float high[2] = {-1e9F, -1e9F};
  for (const EntityFrame& frame : frames) {
    for (const Entity& entity : frame.entities) {
      const float place[2] = {entity.x, entity.y};
      for (int axis = 0; axis < 2; ++axis) {
        low[axis] = std::min(low[axis], place[axis]);
        high[axis] = std::max(high[axis], place[axis]);
      }
    }
  }
  const float half = std::max({(high[0] - low[0]) / 2, (high[1] - low[1]) / 2, 1e-6F});
  for (EntityFrame& frame : frames) {
    for (Entity& entity : frame.entities) {
      entity.x = (entity.x - (low[0] + high[0]) / 2) / half;
      entity.y = (entity.y - (low[1] + high[1]) / 2) / half;
    }
  }
}

}  // namespace

uint32_t name_hash(std::string_view name) {
  uint32_t hash = 2166136261U;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  }
  return hash;
}

std::vector<EntityFrame> read_entity_frames(const std::filesystem::path& path) {
  Table table(path);
  const int64_t owner = table.need("owner");
  const int64_t type = table.find("type") >= 0 ? table.find("type") : table.need("name");
  const int64_t x = table.need("x");
  const int64_t y = table.need("y");
  const int64_t time = table.find("t_s");
  const int64_t reported = table.find("position_s");
  std::vector<EntityFrame> frames;
  while (table.next()) {
    const double seconds = time >= 0 ? table.number(time) : 0;
    if (frames.empty() || frames.back().seconds != seconds) {
      if (!frames.empty() && seconds < frames.back().seconds) {
        table.refuse(cat("t_s falls from ", frames.back().seconds, " to ", seconds));
      }
      frames.emplace_back().seconds = seconds;
    }
    Entity& entity = frames.back().entities.emplace_back();
    entity.x = static_cast<float>(table.number(x));
    entity.y = static_cast<float>(table.number(y));
    entity.owner = player(table.text(owner));
    entity.type = name_hash(table.text(type));
    const double since = reported >= 0 ? table.number(reported) : 0;
    entity.moved = since > 0;
    entity.recent = entity.moved && seconds - since < kRecentSeconds;
  }
  if (frames.empty()) {
    throw Error(ErrorCode::kFormat, printable(path.string()) + ": a heading without rows");
  }
  normalise(frames);
  return frames;
}

std::vector<Replay> read_replay_list(const std::filesystem::path& list) {
  Table table(list);
  const int64_t id = table.need("id");
  const int64_t winner = table.need("winner");
  std::vector<Replay> replays;
  while (table.next()) {
    Replay& replay = replays.emplace_back();
    replay.id = table.text(id);
    const bool plain = !replay.id.empty() && replay.id.size() <= 128 && replay.id[0] != '.' &&
                       std::all_of(replay.id.begin(), replay.id.end(), [](char c) {
                         return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' ||
                                c == '_' || c == '.';
                       });
    if (!plain) {
      table.refuse(cat("id '", printable(replay.id, 40), "' is no plain file name"));
    }
    replay.path = list.parent_path() / (replay.id + ".csv.gz");
    replay.winner = player(table.text(winner));
  }
  return replays;
}

EntityFrame draw_entity_frame(int64_t limit, Random& random) {
  static constexpr int64_t kTypes = 12;  // of each player; two more become common every phase
  EntityFrame frame;
  const double age = random.uniform();  // 0 = the beginning
  frame.seconds = 1200 * age;
  std::vector<std::pair<float, float>> camps[2];
  for (auto& of_player : camps) {
    const int64_t count = 1 + random.below(3);
    for (int64_t i = 0; i < count; ++i) {
      of_player.emplace_back(random.uniform(-0.9, 0.9), random.uniform(-0.9, 0.9));
    }
  }
  const auto room = static_cast<double>(limit);
  const auto count = std::max<int64_t>(4, static_cast<int64_t>(room * random.uniform(0.5, 1)));
  for (int64_t i = 0; i < std::min(count, limit); ++i) {
    Entity& entity = frame.entities.emplace_back();
    entity.owner = static_cast<int8_t>(random.uniform() < 0.2 ? 0 : 1 + random.below(2));
    if (entity.owner == 0) {
      entity.x = static_cast<float>(random.uniform(-1, 1));
      entity.y = static_cast<float>(random.uniform(-1, 1));
      entity.type = name_hash("mineral");
      continue;
    }
    const auto& own = camps[entity.owner - 1];
    const auto& [x, y] = own[static_cast<size_t>(random.below(static_cast<int64_t>(own.size())))];
    entity.x = x + static_cast<float>(random.uniform(-0.1, 0.1));
    entity.y = y + static_cast<float>(random.uniform(-0.1, 0.1));
    entity.moved = random.uniform() < age;
    entity.recent = entity.moved && random.uniform() < 0.5;
    const auto known = 2 + static_cast<int64_t>(age * static_cast<double>(kTypes - 2));
    entity.type = name_hash(cat("unit", random.below(known)));
  }
  return frame;
}

}  // namespace perceiver::train
