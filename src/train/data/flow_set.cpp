#include "train/data/flow_set.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::train {
namespace {

std::vector<FlowFiles> list_files(const FlowSource& source) {
  switch (source.layout) {
    case FlowLayout::kSintel:
      return list_sintel(source.path, source.passes, source.scenes, source.without_scenes);
    case FlowLayout::kFlyingChairs:
      return list_flying_chairs(source.path, source.split_file, source.split);
    case FlowLayout::kKitti:
      return list_kitti(source.path);
    case FlowLayout::kList:
      return read_flow_list(source.path);
    case FlowLayout::kGenerated:
      break;
  }
  return {};
}

void complete_scene(FlowSource& source, const tokens::TileSize& size) {
  FlowSceneSpec& scene = source.scene;
  scene.height = scene.height > 0 ? scene.height : size.height;
  scene.width = scene.width > 0 ? scene.width : size.width;
  check_scene_spec(scene, source.where);
  if (!source.pictures.empty()) {
    scene.pictures = list_pictures(source.pictures);
  }
}

}  // namespace

FlowSet::FlowSet(const std::vector<FlowSource>& sources, uint64_t seed, RandomPurpose purpose,
                 const tokens::TileSize& size)
    : seed_(seed), purpose_(purpose) {
  for (const FlowSource& source : sources) {
    const int64_t begin = count();
    Part& part = parts_.emplace_back();
    part.source = source;
    if (source.layout == FlowLayout::kGenerated) {
      complete_scene(part.source, size);
      part.size = source.examples;
    } else {
      part.files = list_files(source);
      part.size = static_cast<int64_t>(part.files.size());
    }
    part.begin = begin;
    part.end = begin + part.size * source.repeat;
  }
}

size_t FlowSet::source_of(int64_t index) const {
  const auto part = std::find_if(parts_.begin(), parts_.end(),
                                 [&](const Part& candidate) { return index < candidate.end; });
  if (part == parts_.end() || index < 0) {
    throw Error(ErrorCode::kArgument, cat("pair ", index, " of ", count()));
  }
  return static_cast<size_t>(part - parts_.begin());
}

FlowPair FlowSet::read(int64_t index) const {
  const size_t number = source_of(index);
  const Part& part = parts_[number];
  const int64_t at = (index - part.begin) % part.size;
  if (part.source.layout != FlowLayout::kGenerated) {
    return read_flow_pair(part.files[static_cast<size_t>(at)]);
  }
  return FlowScene(part.source.scene, Random{seed_, purpose_, number, static_cast<uint64_t>(at)})
      .render();
}

}  // namespace perceiver::train
