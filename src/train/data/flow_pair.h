#pragma once

#include "perceiver/base/array.h"
#include "perceiver/io/flow_file.h"
#include "perceiver/tokens/flow_tiles.h"

namespace perceiver::train {

/// One example of optical flow: two frames of one size and where each pixel of the first goes.
struct FlowPair {
  Array first, second;  ///< [H, W, 3] U8
  io::Flow flow;        ///< [H, W], pixels; what is not known is not valid
  Array occluded;       ///< [H, W] Bool: not to be seen in `second`; undefined = not told

  int64_t height() const { return first.size(0); }
  int64_t width() const { return first.size(1); }
};

/// The approximate flow of the second frame: every pixel of the first lands on the nearest pixel of
/// the second, and where it lands the way back is the mean of all that landed, negated. Pixels
/// where nothing landed are not valid. Flow of occluded pixels takes part as any other.
/// Source: Perceiver IO, app. H ("approximating the inverse flow").
io::Flow inverse_flow(const io::Flow& flow);

/// The pair played backwards: frames exchanged, flow inverted, occlusion no longer told.
FlowPair reversed(const FlowPair& pair);

/// The part of a pair a model of this size reads, its upper left corner at (y, x) of the first
/// frame. Frames smaller than the model's are extended as when a flow is estimated
/// (tokens::pad_to_tile); the flow of what was added is not valid.
/// @throws Error(kShape) when the tile does not lie inside the extended frame
FlowPair crop(const FlowPair& pair, int64_t y, int64_t x, const tokens::TileSize& size);

/// The rows and columns of an [H, W, ...] array that a tile covers.
Array cut_tile(const Array& frame, int64_t y, int64_t x, const tokens::TileSize& size);

}  // namespace perceiver::train
