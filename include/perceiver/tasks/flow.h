#pragma once

#include <cstdint>

#include "perceiver/base/array.h"
#include "perceiver/base/progress.h"
#include "perceiver/io/flow_file.h"
#include "perceiver/io/image.h"
#include "perceiver/tasks/bundle.h"
#include "perceiver/tokens/engine.h"

namespace perceiver::tasks {

struct FlowOptions {
  /// Pixels neighbouring tiles share at least, as in the released demonstration; at most half of
  /// the model's shorter side.
  int64_t overlap = 20;
  ProgressFn progress;  ///< called after each tile
};

/// Where every pixel of `first` goes in `second`, in pixels.
/// Frames of any size are cut into tiles of the model's size, whose flows are blended; frames
/// smaller than a tile are extended by their border first.
/// @throws Error(kArgument) when the model estimates no flow; Error(kShape) for frames of different
///         sizes, naming both
io::Flow estimate_flow(const Bundle& bundle, Engine& engine, const io::Image& first,
                       const io::Image& second, const FlowOptions& options = {});

/// What the model itself answers for the top left tile of `frame` shown twice, before scaling to
/// pixels.
/// @return [H, W, 2] F32 of the model's size
Array raw_flow_tile(const Bundle& bundle, Engine& engine, const io::Image& frame);

bool is_flow_model(const ModelSpec& spec);

}  // namespace perceiver::tasks
