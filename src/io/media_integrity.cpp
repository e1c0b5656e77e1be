#include "io/media_integrity.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "io/byte_order.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

[[noreturn]] void truncated(const std::string& where, std::string_view part, uint64_t needed,
                            size_t have) {
  throw Error(ErrorCode::kFormat, cat(where, ": truncated: its ", printable(part),
                                      " reaches to byte ", needed, " but the file ends at ", have));
}

/// Chunks of RIFF/WAVE up to the samples. A length of 0xFFFFFFFF means "as long as the file"
/// (written when the length was not known), in RF64 it stands in another chunk.
void check_wav(std::string_view bytes, const std::string& where) {
  size_t at = 12;
  while (at + 8 <= bytes.size()) {
    const std::string_view name = bytes.substr(at, 4);
    const uint64_t size = read_le32(bytes, at + 4);
    if (name == "data" && size == 0xFFFFFFFFU) {
      return;
    }
    if (size > bytes.size() - at - 8) {
      truncated(where, cat(name, " chunk"), at + 8 + size, bytes.size());
    }
    if (name == "data") {
      return;
    }
    at += 8 + size + (size & 1);
  }
  throw Error(ErrorCode::kFormat, cat(where, ": truncated: WAV without samples"));
}

void check_avi(std::string_view bytes, const std::string& where) {
  const uint64_t end = bytes.size() < 12 ? UINT64_MAX : 8 + uint64_t{read_le32(bytes, 4)};
  if (end > bytes.size()) {
    truncated(where, "RIFF list", end, bytes.size());
  }
}

/// Top-level boxes: 32-bit size and name; size 1 = 64-bit size follows, size 0 = to the end.
void check_mp4(std::string_view bytes, const std::string& where) {
  bool has_index = false;
  uint64_t at = 0;
  while (at + 8 <= bytes.size()) {
    const std::string_view name = bytes.substr(at + 4, 4);
    uint64_t size = read_be32(bytes, at);
    if (size == 1 && bytes.size() - at >= 16) {
      size = uint64_t{read_be32(bytes, at + 8)} << 32 | read_be32(bytes, at + 12);
    } else if (size == 0) {
      size = bytes.size() - at;
    }
    if (size < 8) {
      throw Error(ErrorCode::kFormat, cat(where, ": damaged MP4: a part of ", size, " bytes"));
    }
    if (size > bytes.size() - at) {
      truncated(where, cat(name, " part"), at + std::min(size, UINT64_MAX - at), bytes.size());
    }
    has_index = has_index || name == "moov";
    at += size;
  }
  if (!has_index) {
    throw Error(ErrorCode::kFormat, cat(where, ": truncated: MP4 without its index (moov)"));
  }
}

/// The last page must carry the end-of-stream flag (RFC 3533 section 6).
void check_ogg(std::string_view bytes, const std::string& where) {
  const size_t page = bytes.rfind("OggS");
  constexpr size_t kHeaderBytes = 27;
  bool complete = page != std::string_view::npos && bytes.size() - page >= kHeaderBytes;
  if (complete) {
    const size_t segments = static_cast<unsigned char>(bytes[page + 26]);
    complete = bytes.size() - page >= kHeaderBytes + segments;
    size_t body = 0;
    for (size_t i = 0; complete && i < segments; ++i) {
      body += static_cast<unsigned char>(bytes[page + kHeaderBytes + i]);
    }
    complete = complete && bytes.size() - page >= kHeaderBytes + segments + body &&
               (bytes[page + 5] & 4) != 0;
  }
  if (!complete) {
    throw Error(ErrorCode::kFormat, cat(where, ": truncated: Ogg without its last page"));
  }
}

/// Bytes of the layer III frame whose 4-byte header stands at `at` (ISO 11172-3 / 13818-3 2.4.1.3).
std::optional<size_t> mp3_frame_bytes(std::string_view bytes, size_t at) {
  constexpr int kKilobits[2][15] = {
      {0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},  // MPEG 1
      {0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}};     // MPEG 2, 2.5
  constexpr int kHertz[3] = {44100, 48000, 32000};
  if (content_kind(bytes.substr(at, 4)) != ContentKind::kMp3) {
    return std::nullopt;
  }
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[at + i]); };
  const unsigned version = (byte(1) >> 3) & 3U;  // 3 = MPEG 1, 2 = MPEG 2, 0 = MPEG 2.5
  const int kilobits = kKilobits[version == 3 ? 0 : 1][byte(2) >> 4];
  const int hertz = kHertz[(byte(2) >> 2) & 3U] >> (version == 3 ? 0 : version == 2 ? 1 : 2);
  const int padding = (byte(2) >> 1) & 1;
  return static_cast<size_t>((version == 3 ? 144000 : 72000) * kilobits / hertz + padding);
}

void check_mp3(std::string_view bytes, const std::string& where) {
  size_t at = 0;
  if (bytes.substr(0, 3) == "ID3" && bytes.size() >= 10) {
    for (size_t i = 6; i < 10; ++i) {
      at = at << 7 | (static_cast<unsigned char>(bytes[i]) & 127U);
    }
    at += 10;
    if (at > bytes.size()) {
      truncated(where, "ID3 tag", at, bytes.size());
    }
  }
  while (at + 4 <= bytes.size() && bytes.substr(at, 3) != "ID3") {
    const auto size = mp3_frame_bytes(bytes, at);
    if (!size) {
      return;  // a trailing tag or padding
    }
    if (*size > bytes.size() - at) {
      truncated(where, "last MP3 frame", at + *size, bytes.size());
    }
    at += *size;
  }
}

}  // namespace

void check_media_complete(ContentKind kind, std::string_view bytes, const std::string& where) {
  switch (kind) {
    case ContentKind::kWav:
      return check_wav(bytes, where);
    case ContentKind::kAvi:
      return check_avi(bytes, where);
    case ContentKind::kMp4:
      return check_mp4(bytes, where);
    case ContentKind::kOgg:
      return check_ogg(bytes, where);
    case ContentKind::kMp3:
      return check_mp3(bytes, where);
    default:
      return;
  }
}

}  // namespace perceiver::io
