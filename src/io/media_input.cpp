#include "io/media_input.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "io/media_integrity.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

constexpr int kBufferBytes = 1 << 16;

// Decoders that files from outside may reach.
constexpr const char* kDecoders =
    "pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav,flac,vorbis,opus,libopus,libvorbis,"
    "mp3,mp3float,mp2,aac,ac3,"
    "h264,hevc,mpeg4,msmpeg4,msmpeg4v1,msmpeg4v2,h263,mjpeg,mpeg1video,mpeg2video,vp8,vp9,libdav1d,"
    "av1,rawvideo,ffv1,huffyuv,png,dvvideo,cinepak,prores";

const char* demuxer_of(ContentKind kind) {
  switch (kind) {
    case ContentKind::kWav:
      return "wav";
    case ContentKind::kFlac:
      return "flac";
    case ContentKind::kOgg:
      return "ogg";
    case ContentKind::kMp3:
      return "mp3";
    case ContentKind::kMp4:
      return "mov";
    default:
      return "avi";
  }
}

int refuse_to_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EPERM);
}

/// Decoders round the sides up before they compare, so theirs is a coarser second line; the exact
/// limit is checked on what the file states.
int64_t decoder_pixels(int64_t max_pixels) {
  constexpr int64_t kSlack = 1 << 20;
  return std::min(max_pixels, int64_t{1} << 40) * 2 + kSlack;
}

struct Dictionary {
  AVDictionary* entries = nullptr;
  Dictionary() = default;
  Dictionary(const Dictionary&) = delete;
  Dictionary& operator=(const Dictionary&) = delete;
  ~Dictionary() { av_dict_free(&entries); }
};

}  // namespace

MediaInput::MediaInput(const std::filesystem::path& path, std::initializer_list<ContentKind> kinds,
                       const std::string& wanted, int64_t max_pixels)
    : where_(printable(path.string())),
      file_(MappedFile::open(path)),
      max_pixels_(decoder_pixels(max_pixels)) {
  ffmpeg::silence();
  const std::string_view bytes(reinterpret_cast<const char*>(file_->data()), file_->size());
  const std::string_view head = bytes.substr(0, kContentHeadBytes);
  kind_ = content_kind(head);
  if (std::find(kinds.begin(), kinds.end(), kind_) == kinds.end()) {
    throw Error(kind_ == ContentKind::kMatroska ? ErrorCode::kUnsupported : ErrorCode::kFormat,
                cat(where_, ": expected ", wanted, ", found ", describe_content(head)));
  }
  check_media_complete(kind_, bytes, where_);
  try {
    open();
  } catch (...) {
    close();  // a constructor that throws runs no destructor
    throw;
  }
}

MediaInput::~MediaInput() {
  close();
}

void MediaInput::close() {
  avformat_close_input(&format_);
  if (io_ != nullptr) {
    av_freep(&io_->buffer);
    avio_context_free(&io_);
  }
}

void MediaInput::open() {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kBufferBytes));
  io_ = buffer == nullptr ? nullptr
                          : avio_alloc_context(buffer, kBufferBytes, 0, this,
                                               &MediaInput::read_bytes, nullptr, &MediaInput::seek);
  format_ = avformat_alloc_context();
  if (io_ == nullptr || format_ == nullptr) {
    ffmpeg::throw_out_of_memory();
  }
  format_->pb = io_;
  format_->flags |= AVFMT_FLAG_CUSTOM_IO;
  format_->io_open = &refuse_to_open;
  Dictionary options;
  av_dict_set(&options.entries, "codec_whitelist", kDecoders, 0);
  av_dict_set(&options.entries, "max_streams", "64", 0);
  int code = avformat_open_input(&format_, nullptr, av_find_input_format(demuxer_of(kind_)),
                                 &options.entries);
  if (code >= 0) {
    std::vector<AVDictionary*> per_stream(format_->nb_streams, nullptr);
    for (AVDictionary*& entry : per_stream) {
      av_dict_set_int(&entry, "max_pixels", max_pixels_, 0);
      av_dict_set(&entry, "threads", "1", 0);
    }
    code = avformat_find_stream_info(format_, per_stream.data());
    for (AVDictionary*& entry : per_stream) {
      av_dict_free(&entry);
    }
  }
  if (code < 0) {
    throw Error(ErrorCode::kFormat, cat(where_, ": damaged: ", ffmpeg::error_text(code)));
  }
}

int MediaInput::best_stream(AVMediaType type) {
  return std::max(-1, av_find_best_stream(format_, type, -1, -1, nullptr, 0));
}

ffmpeg::CodecPtr MediaInput::open_decoder(int index, int threads) {
  const AVCodecParameters& parameters = *stream(index).codecpar;
  const AVCodec* codec = avcodec_find_decoder(parameters.codec_id);
  ffmpeg::CodecPtr decoder;
  int code = AVERROR_DECODER_NOT_FOUND;
  if (codec != nullptr) {
    decoder = ffmpeg::checked<ffmpeg::CodecPtr>(avcodec_alloc_context3(codec));
    code = avcodec_parameters_to_context(decoder.get(), &parameters);
    decoder->pkt_timebase = stream(index).time_base;
    decoder->thread_count = threads;
    decoder->max_pixels = max_pixels_;
    Dictionary options;
    av_dict_set(&options.entries, "codec_whitelist", kDecoders, 0);
    code = code < 0 ? code : avcodec_open2(decoder.get(), codec, &options.entries);
  }
  if (code < 0) {
    throw Error(ErrorCode::kUnsupported,
                cat(where_, ": cannot decode ", avcodec_get_name(parameters.codec_id), ": ",
                    ffmpeg::error_text(code)));
  }
  return decoder;
}

bool MediaInput::read(AVPacket& packet, int index) {
  for (;;) {
    av_packet_unref(&packet);
    const int code = av_read_frame(format_, &packet);
    if (code == AVERROR_EOF) {
      return false;
    }
    if (code < 0) {
      throw Error(ErrorCode::kFormat, cat(where_, ": damaged: ", ffmpeg::error_text(code)));
    }
    if (packet.stream_index != index) {
      continue;
    }
    if ((packet.flags & AV_PKT_FLAG_CORRUPT) != 0) {
      throw Error(ErrorCode::kFormat,
                  cat(where_, ": truncated or damaged data at byte ", packet.pos));
    }
    return true;
  }
}

int MediaInput::read_bytes(void* self, uint8_t* to, int size) {
  auto& input = *static_cast<MediaInput*>(self);
  const uint64_t left = input.file_->size() - std::min(input.position_, input.file_->size());
  const auto count = static_cast<size_t>(std::min<uint64_t>(left, static_cast<uint64_t>(size)));
  if (count == 0) {
    return AVERROR_EOF;
  }
  std::memcpy(to, input.file_->data() + input.position_, count);
  input.position_ += count;
  return static_cast<int>(count);
}

int64_t MediaInput::seek(void* self, int64_t offset, int whence) {
  auto& input = *static_cast<MediaInput*>(self);
  const auto size = static_cast<int64_t>(input.file_->size());
  if (whence == AVSEEK_SIZE) {
    return size;
  }
  const int64_t base = whence == SEEK_CUR   ? static_cast<int64_t>(input.position_)
                       : whence == SEEK_END ? size
                                            : 0;
  if (offset < -base || offset > INT64_MAX - base) {
    return AVERROR(EINVAL);
  }
  input.position_ = static_cast<uint64_t>(base + offset);
  return base + offset;
}

}  // namespace perceiver::io
