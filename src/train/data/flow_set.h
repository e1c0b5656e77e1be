#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/data/flow_files.h"
#include "train/data/flow_pair.h"
#include "train/data/flow_scene.h"
#include "train/random.h"

namespace perceiver::train {

enum class FlowLayout { kGenerated, kSintel, kFlyingChairs, kKitti, kList };

/// One part of a data set, as a recipe names it.
struct FlowSource {
  FlowLayout layout = FlowLayout::kGenerated;
  std::string where;           ///< its place in the recipe, for messages
  std::string name;            ///< of its own measurements
  std::filesystem::path path;  ///< folder, or the file of kList
  int64_t repeat = 1;          ///< how often its pairs come in an epoch

  FlowSceneSpec scene;             ///< kGenerated; a height or width of 0 is the model's
  int64_t examples = 0;            ///< kGenerated: pairs in an epoch
  std::filesystem::path pictures;  ///< kGenerated: folder of textures; empty = none

  std::vector<std::string> passes;                  ///< kSintel
  std::vector<std::string> scenes, without_scenes;  ///< kSintel
  std::filesystem::path split_file;                 ///< kFlyingChairs; empty = all pairs
  int split = 1;                                    ///< kFlyingChairs: which number of split_file
};

/// The pairs of several sources, one after another. Generated pairs are functions of
/// (seed, purpose, source, index); the others are read from their files each time they are asked
/// for. read() may be called from several threads.
class FlowSet {
 public:
  /// Lists the files; reads none. @param size  of the model
  /// @throws Error(kIo), Error(kFormat), Error(kArgument) naming what does not fit
  FlowSet(const std::vector<FlowSource>& sources, uint64_t seed, RandomPurpose purpose,
          const tokens::TileSize& size);

  int64_t count() const { return parts_.empty() ? 0 : parts_.back().end; }
  /// Which source pair `index` comes from. @throws Error(kArgument) outside 0 .. count() - 1
  size_t source_of(int64_t index) const;
  /// @param index  0 .. count() - 1   @throws what read_flow_pair() does
  FlowPair read(int64_t index) const;

 private:
  struct Part {
    FlowSource source;
    std::vector<FlowFiles> files;  // of every layout but kGenerated
    int64_t size = 0;              // pairs without repetition
    int64_t begin = 0, end = 0;    // of its indices
  };
  uint64_t seed_;
  RandomPurpose purpose_;
  std::vector<Part> parts_;
};

}  // namespace perceiver::train
