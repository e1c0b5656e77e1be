#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Optical flow: where each pixel of the first frame goes.
struct Flow {
  Array uv;     ///< [H, W, 2] F32, pixels; channel 0 = x (right), 1 = y (down); 0 where not valid
  Array valid;  ///< [H, W] Bool, false = not measured

  int64_t height() const { return uv.size(0); }
  int64_t width() const { return uv.size(1); }
};

struct FlowLimits {
  int64_t max_pixels = int64_t{1} << 28;
  int64_t max_side = 65535;
};

/// Wraps [H, W, 2] F32 with every pixel valid. @throws Error(kShape)
Flow make_flow(Array uv);

/// Reads a Middlebury `.flo` or a KITTI 16-bit PNG, whichever the content is.
/// @throws as read_flo / read_kitti_flow
Flow read_flow(const std::filesystem::path& path, const FlowLimits& limits = {});

/// Middlebury format: "PIEH", int32 width, int32 height, then (u, v) float32 by row, little-endian.
/// A component beyond 1e9 or not a number means unknown.
/// @throws Error(kIo); Error(kFormat) when the tag, the sizes and the length of the file disagree
Flow read_flo(const std::filesystem::path& path, const FlowLimits& limits = {});
Flow decode_flo(std::string_view bytes, const std::string& where, const FlowLimits& limits = {});

/// KITTI format: 16-bit RGB PNG, u = (R - 2^15) / 64, v = (G - 2^15) / 64, valid = B != 0.
/// @throws Error(kIo), Error(kFormat)
Flow read_kitti_flow(const std::filesystem::path& path, const FlowLimits& limits = {});

/// Whole or not at all. Unknown pixels are written as 1e10 (`.flo`) or 0, 0, 0 (KITTI).
/// @throws Error(kIo); Error(kShape); write_kitti_flow: Error(kArgument) for a valid flow outside
///         [-512, 511.98] pixels, which that format cannot hold
void write_flo(const std::filesystem::path& path, const Flow& flow);
void write_kitti_flow(const std::filesystem::path& path, const Flow& flow);

}  // namespace perceiver::io
