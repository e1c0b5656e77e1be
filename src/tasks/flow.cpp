#include "perceiver/tasks/flow.h"

#include <utility>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tokens/flow_tiles.h"

namespace perceiver::tasks {
namespace {

constexpr int64_t kPatchChannels = 27;  // 3 x 3 surroundings of RGB

tokens::TileSize tile_of(const Bundle& bundle) {
  if (!is_flow_model(bundle.spec)) {
    throw Error(ErrorCode::kArgument,
                cat("model \"", printable(bundle.spec.name), "\" does not estimate optical flow"));
  }
  const std::vector<int64_t>& dims = bundle.spec.inputs[0].index_dims;
  return {dims[1], dims[2]};
}

Array run_tile(Engine& engine, Array patches, const tokens::TileSize& tile) {
  const ModelSpec& spec = engine.spec();
  ModelInputs inputs;
  inputs.arrays[spec.inputs[0].name] = std::move(patches);
  const Array flow = engine.forward(inputs).at(spec.outputs[0].name).to(DType::kF32);
  return flow.reshape({tile.height, tile.width, 2});
}

std::string size_text(const io::Image& image) {
  return cat(image.width(), " x ", image.height());
}

}  // namespace

bool is_flow_model(const ModelSpec& spec) {
  return spec.inputs.size() == 1 && spec.inputs[0].kind == InputKind::kGrid &&
         spec.inputs[0].index_dims.size() == 3 && spec.inputs[0].index_dims[0] == 2 &&
         spec.inputs[0].channels == kPatchChannels && spec.outputs.size() == 1 &&
         spec.outputs[0].query == QueryKind::kInputTokens && !spec.outputs[0].single_row;
}

io::Flow estimate_flow(const Bundle& bundle, Engine& engine, const io::Image& first,
                       const io::Image& second, const FlowOptions& options) {
  const tokens::TileSize tile = tile_of(bundle);
  if (first.height() != second.height() || first.width() != second.width()) {
    throw Error(ErrorCode::kShape, cat("the frames differ in size: the first is ", size_text(first),
                                       " pixels, the second ", size_text(second)));
  }
  const Array a = tokens::pad_to_tile(tokens::normalize_frame(io::to_rgb(first).pixels), tile);
  const Array b = tokens::pad_to_tile(tokens::normalize_frame(io::to_rgb(second).pixels), tile);
  const std::vector<tokens::Tile> tiles = tokens::flow_tiles(
      first.height(), first.width(), tile, tokens::flow_overlap(tile, options.overlap));
  tokens::FlowBlender blender(first.height(), first.width(), tile);
  int64_t done = 0;
  for (const tokens::Tile& at : tiles) {
    blender.add(at, run_tile(engine, tokens::flow_tile_patches(a, b, at, tile), tile));
    if (options.progress) {
      options.progress({"tiles", ++done, static_cast<int64_t>(tiles.size()), ""});
    }
  }
  Array uv = blender.finish();
  float* value = uv.mutable_data<float>();
  for (int64_t i = 0; i < uv.numel(); ++i) {
    value[i] *= tokens::kFlowScaleFactor;
  }
  return io::make_flow(std::move(uv));
}

Array raw_flow_tile(const Bundle& bundle, Engine& engine, const io::Image& frame) {
  const tokens::TileSize tile = tile_of(bundle);
  const Array pixels = tokens::pad_to_tile(tokens::normalize_frame(io::to_rgb(frame).pixels), tile);
  return run_tile(engine, tokens::flow_tile_patches(pixels, pixels, {}, tile), tile);
}

}  // namespace perceiver::tasks
