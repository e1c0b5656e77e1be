#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/io/audio.h"

namespace perceiver::io {

/// What a film file says about its best picture stream, before decoding it.
struct VideoInfo {
  int64_t width = 0;  ///< as shown, after rotation
  int64_t height = 0;
  double frames_per_second = 0;  ///< average; 0 = unknown
  double seconds = 0;            ///< 0 = unknown
  int64_t num_frames = 0;        ///< 0 = not stated by the file
  std::string codec;             ///< FFmpeg's name: "h264"
  bool has_audio = false;
};

struct VideoLimits {
  int64_t max_pixels = int64_t{1} << 26;  ///< width * height of one frame
  int64_t max_bytes = int64_t{1} << 33;   ///< of all frames read_video() returns
};

struct ReadVideoOptions {
  double start_seconds = 0.0;  ///< first frame is the first one shown at or after this time
  int64_t max_frames = 0;      ///< 0 = all
  int64_t frame_step = 1;      ///< keep every n-th frame
  VideoLimits limits = {};
};

struct VideoFrame {
  Array pixels;          ///< [H, W, 3] U8 RGB, turned upright
  double seconds = 0.0;  ///< presentation time by the file's clock
};

/// @throws as VideoReader
VideoInfo probe_video(const std::filesystem::path& path, const VideoLimits& limits = {});

/// Decodes an MP4 / MOV / AVI file frame by frame; memory does not grow with its length.
class VideoReader {
 public:
  /// @throws Error(kIo) unreadable; Error(kFormat) truncated, damaged, no picture stream, over a
  ///         limit; Error(kUnsupported) another container or codec
  explicit VideoReader(const std::filesystem::path& path, const ReadVideoOptions& options = {});
  ~VideoReader();
  VideoReader(VideoReader&&) noexcept;
  VideoReader& operator=(VideoReader&&) noexcept;

  const VideoInfo& info() const;

  /// The next frame, or nothing after the last. Colours follow the file's matrix and range; where
  /// it states none, BT.601 limited range (FFmpeg's and OpenCV's reading). Equal to `ffmpeg
  /// -pix_fmt rgb24` and torchcodec in every level on the films tested.
  /// @throws Error(kFormat) damaged data, or a frame of another size than the first
  std::optional<VideoFrame> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct Video {
  Array frames;                 ///< [T, H, W, 3] U8 RGB
  std::vector<double> seconds;  ///< [T] presentation times
  VideoInfo info;
};

/// All frames asked for, in memory. The sound of the same file: read_audio().
/// @throws as VideoReader; Error(kFormat) when no frame is left or `limits.max_bytes` is passed
Video read_video(const std::filesystem::path& path, const ReadVideoOptions& options = {});

/// Writes an MP4 whole or not at all: H.264 (MPEG-4 part 2 where FFmpeg lacks an H.264 encoder),
/// 4:2:0, BT.601 limited range, and AAC. 4:2:0 needs even sides: an odd last row or column is
/// repeated once.
/// @param frames  [T, H, W, 3] U8 RGB, T >= 1
/// @param audio   1 or 2 channels
/// @throws Error(kShape), Error(kArgument), Error(kIo)
void write_mp4(const std::filesystem::path& path, const Array& frames, double frames_per_second,
               const std::optional<Audio>& audio = std::nullopt);

}  // namespace perceiver::io
