#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>

#include "io/content_kind.h"
#include "io/ffmpeg_common.h"
#include "perceiver/base/file.h"

namespace perceiver::io {

/// A sound or film file opened for demuxing. The container is chosen by our own look at the first
/// bytes, FFmpeg reads only this mapped file (a playlist or reference inside it opens nothing), and
/// only decoders on a short list are ever run.
class MediaInput {
 public:
  /// @param wanted  "a WAV, FLAC, Ogg or MP3 file", for the message when it is something else
  /// @param max_pixels  limit of a picture stream's frames
  /// @throws Error(kIo), Error(kFormat), Error(kUnsupported)
  MediaInput(const std::filesystem::path& path, std::initializer_list<ContentKind> kinds,
             const std::string& wanted, int64_t max_pixels);
  ~MediaInput();
  MediaInput(const MediaInput&) = delete;
  MediaInput& operator=(const MediaInput&) = delete;

  AVFormatContext& format() { return *format_; }
  ContentKind kind() const { return kind_; }
  const std::string& where() const { return where_; }

  /// Index of the best stream of a kind, -1 when there is none.
  int best_stream(AVMediaType type);
  AVStream& stream(int index) { return *format_->streams[index]; }

  /// Decoder for a stream. @throws Error(kUnsupported) for a codec that is not on the list
  ffmpeg::CodecPtr open_decoder(int index, int threads);

  /// Next packet of `index` into `packet`; false at the end of the file. @throws Error(kFormat)
  bool read(AVPacket& packet, int index);

 private:
  void open();
  void close();

  std::string where_;
  std::shared_ptr<const MappedFile> file_;
  uint64_t position_ = 0;
  ContentKind kind_ = ContentKind::kUnknown;
  int64_t max_pixels_;
  AVIOContext* io_ = nullptr;
  AVFormatContext* format_ = nullptr;

  static int read_bytes(void* self, uint8_t* to, int size);
  static int64_t seek(void* self, int64_t offset, int whence);
};

}  // namespace perceiver::io
