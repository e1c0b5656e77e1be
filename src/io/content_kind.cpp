#include "io/content_kind.h"

#include <algorithm>
#include <cctype>

#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

using namespace std::string_view_literals;

bool holds(std::string_view head, size_t at, std::string_view wanted) {
  return head.size() >= at && head.substr(at, wanted.size()) == wanted;
}

bool is_pnm(std::string_view head) {
  return head.size() >= 3 && head[0] == 'P' && head[1] >= '1' && head[1] <= '7' &&
         (std::isspace(static_cast<unsigned char>(head[2])) != 0 || head[2] == '#');
}

/// MPEG audio frame sync with a possible layer III header.
bool is_mp3_frame(std::string_view head) {
  if (head.size() < 4) {
    return false;
  }
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(head[i]); };
  const bool sync = byte(0) == 0xFF && (byte(1) & 0xE0) == 0xE0;
  const unsigned version = (byte(1) >> 3) & 3U, layer = (byte(1) >> 1) & 3U;
  const unsigned bitrate = byte(2) >> 4, rate = (byte(2) >> 2) & 3U;
  return sync && version != 1 && layer == 1 && bitrate != 15 && bitrate != 0 && rate != 3;
}

bool is_mp4(std::string_view head) {
  for (const auto box : {"ftyp"sv, "moov"sv, "mdat"sv, "wide"sv, "free"sv, "skip"sv, "pnot"sv}) {
    if (holds(head, 4, box)) {
      return true;
    }
  }
  return false;
}

bool is_text(std::string_view head) {
  return std::all_of(head.begin(), head.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= 0x20 && byte != 0x7F) || byte == '\n' || byte == '\r' || byte == '\t' ||
           byte == '\f';
  });
}

ContentKind text_kind(std::string_view head) {
  const size_t start = std::min(head.find_first_not_of(" \t\r\n"), head.size());
  const std::string_view rest = head.substr(start);
  if (holds(rest, 0, "<!DOCTYPE html") || holds(rest, 0, "<!doctype html") ||
      holds(rest, 0, "<html")) {
    return ContentKind::kHtml;
  }
  return holds(rest, 0, "{") || holds(rest, 0, "[") ? ContentKind::kJson : ContentKind::kText;
}

ContentKind riff_kind(std::string_view head) {
  if (holds(head, 8, "WAVE")) {
    return ContentKind::kWav;
  }
  if (holds(head, 8, "AVI ")) {
    return ContentKind::kAvi;
  }
  return holds(head, 8, "WEBP") ? ContentKind::kWebp : ContentKind::kUnknown;
}

}  // namespace

ContentKind content_kind(std::string_view head) {
  if (head.empty()) {
    return ContentKind::kEmpty;
  }
  if (holds(head, 0, "RIFF") || holds(head, 0, "RF64")) {
    return riff_kind(head);
  }
  struct Magic {
    std::string_view bytes;
    ContentKind kind;
  };
  static constexpr Magic kMagics[] = {
      {"\x89PNG\r\n\x1a\n"sv, ContentKind::kPng},
      {"\xff\xd8\xff"sv, ContentKind::kJpeg},
      {"GIF87a"sv, ContentKind::kGif},
      {"GIF89a"sv, ContentKind::kGif},
      {"II*\0"sv, ContentKind::kTiff},
      {"MM\0*"sv, ContentKind::kTiff},
      {"fLaC"sv, ContentKind::kFlac},
      {"OggS"sv, ContentKind::kOgg},
      {"ID3"sv, ContentKind::kMp3},
      {"\x1a\x45\xdf\xa3"sv, ContentKind::kMatroska},
      {"PIEH"sv, ContentKind::kFlo},
      {"\x1f\x8b"sv, ContentKind::kGzip},
      {"PK\x03\x04"sv, ContentKind::kZip},
      {"%PDF-"sv, ContentKind::kPdf},
      {"\x80\x02"sv, ContentKind::kPickle},
      {"\x80\x03"sv, ContentKind::kPickle},
      {"\x80\x04"sv, ContentKind::kPickle},
  };
  for (const Magic& magic : kMagics) {
    if (holds(head, 0, magic.bytes)) {
      return magic.kind;
    }
  }
  if (is_pnm(head)) {
    return ContentKind::kPnm;
  }
  if (is_mp4(head)) {
    return ContentKind::kMp4;
  }
  if (is_mp3_frame(head)) {
    return ContentKind::kMp3;
  }
  if (is_text(head)) {
    return text_kind(head);
  }
  return holds(head, 0, "BM") ? ContentKind::kBmp : ContentKind::kUnknown;
}

std::string describe_content(std::string_view head) {
  switch (content_kind(head)) {
    case ContentKind::kEmpty:
      return "an empty file";
    case ContentKind::kPng:
      return "a PNG picture";
    case ContentKind::kJpeg:
      return "a JPEG picture";
    case ContentKind::kPnm:
      return "a PNM picture";
    case ContentKind::kGif:
      return "a GIF picture";
    case ContentKind::kBmp:
      return "a BMP picture";
    case ContentKind::kWebp:
      return "a WebP picture";
    case ContentKind::kTiff:
      return "a TIFF picture";
    case ContentKind::kWav:
      return "WAV sound";
    case ContentKind::kFlac:
      return "FLAC sound";
    case ContentKind::kOgg:
      return "Ogg sound";
    case ContentKind::kMp3:
      return "MP3 sound";
    case ContentKind::kMp4:
      return "an MP4 or QuickTime film";
    case ContentKind::kAvi:
      return "an AVI film";
    case ContentKind::kMatroska:
      return "a Matroska or WebM film";
    case ContentKind::kFlo:
      return "a Middlebury flow file";
    case ContentKind::kGzip:
      return "gzip data";
    case ContentKind::kZip:
      return "a ZIP archive";
    case ContentKind::kPdf:
      return "a PDF document";
    case ContentKind::kPickle:
      return "a Python pickle";
    case ContentKind::kJson:
      return "JSON text";
    case ContentKind::kHtml:
      return "an HTML page";
    case ContentKind::kText:
      return "plain text";
    case ContentKind::kUnknown:
      break;
  }
  std::string text = "unknown data starting";
  constexpr char kDigits[] = "0123456789abcdef";
  for (const char c : head.substr(0, 4)) {
    const auto byte = static_cast<unsigned char>(c);
    text += {' ', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

}  // namespace perceiver::io
