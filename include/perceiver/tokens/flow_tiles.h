#pragma once

#include <cstdint>
#include <vector>

#include "perceiver/base/array.h"

// Optical flow between frames of any size by a model that reads tiles of one size
// (released_models.md section 4: the grid and the weights of DeepMind's colab).
namespace perceiver::tokens {

/// Size of the frames a flow model reads.
struct TileSize {
  int64_t height = 368, width = 496;
  bool operator==(const TileSize&) const = default;
};

constexpr int64_t kFlowTileOverlap = 20;   ///< pixels two neighbouring tiles share at least
constexpr float kFlowScaleFactor = 20.0F;  ///< model output times this = pixels

/// `wanted`, but at most half of a tile's shorter side: models of small frames would otherwise need
/// a tile for nearly every pixel.
int64_t flow_overlap(const TileSize& tile, int64_t wanted = kFlowTileOverlap);

/// Upper left corner of a tile in the frame.
struct Tile {
  int64_t y = 0, x = 0;
  /// How often DeepMind's grid holds this tile; where the last step lands on an earlier tile it
  /// counts twice in the blend, and is run once.
  int64_t count = 1;
  bool operator==(const Tile&) const = default;
};

/// Tiles that cover a frame, row by row: steps of tile - overlap from 0, the last one moved back so
/// that it ends with the frame (a step before it that would reach beyond is left out; the colab
/// fails there). A frame smaller than a tile in a direction gets one tile there, see pad_to_tile().
/// @throws Error(kArgument) for an overlap outside [0, tile) or an empty frame
std::vector<Tile> flow_tiles(int64_t frame_height, int64_t frame_width, const TileSize& tile = {},
                             int64_t min_overlap = kFlowTileOverlap);

/// Levels to [-1, 1]: x / 255 * 2 - 1 in float.
/// @param frame  [H, W, 3] U8 -> [H, W, 3] F32
/// @throws Error(kShape)
Array normalize_frame(const Array& frame);

/// The one place where frames smaller than a tile are handled: the last row and column are repeated
/// until each side is at least the tile's. The flow of what was added is cut off by FlowBlender.
/// @param frame  [H, W, C], any dtype; returned as it is when large enough
Array pad_to_tile(const Array& frame, const TileSize& tile = {});

/// Model input of one tile of a pair: both frames cut, then the 3x3 surroundings of every pixel,
/// zeros beyond the tile.
/// @param first, second  [H, W, 3] F32 normalised frames of one size, at least as large as a tile
/// @return               [1, 2, tile.height, tile.width, 27] F32, channels (ph, pw, c)
/// @throws Error(kShape) when the frames differ in size or do not hold the tile
Array flow_tile_patches(const Array& first, const Array& second, const Tile& at,
                        const TileSize& tile = {});

enum class PatchPadding { kValid, kSame };

/// Patches of sizes[0] x sizes[1] pixels, `rates` apart, every `strides` pixels: DeepMind's
/// extract_patches.
/// @param images  F32 or F64 [B, H, W, C]
/// @return        [B, out_h, out_w, sizes[0] * sizes[1] * C], channels (ph, pw, c)
/// @throws Error(kShape), Error(kArgument)
Array extract_patches(const Array& images, const std::vector<int64_t>& sizes,
                      const std::vector<int64_t>& strides, const std::vector<int64_t>& rates,
                      PatchPadding padding);

/// Weight of each pixel of a tile in the blend, a pyramid: min(distance to the nearest vertical
/// edge, to the nearest horizontal edge), counted from 1. @return [height, width] F32
Array flow_tile_weights(const TileSize& tile = {});

/// Puts the flows of overlapping tiles together: sum of weight times flow over sum of weights.
class FlowBlender {
 public:
  /// @param frame_height, frame_width  of the frame before pad_to_tile()
  FlowBlender(int64_t frame_height, int64_t frame_width, const TileSize& tile = {});

  /// Adds a tile's flow. @param flow  [tile.height, tile.width, 2] F32. @throws Error(kShape)
  void add(const Tile& at, const Array& flow);

  /// [frame_height, frame_width, 2] F32. @throws Error(kArgument) when a pixel was never covered
  Array finish() const;

 private:
  int64_t frame_height_, frame_width_, width_, height_;
  TileSize tile_;
  Array weights_;
  std::vector<double> sums_;         ///< [height, width, 2]
  std::vector<double> weight_sums_;  ///< [height, width]
};

}  // namespace perceiver::tokens
