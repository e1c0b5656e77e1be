#pragma once

#include <string>
#include <string_view>

namespace perceiver::io {

/// What the first bytes of a file are, for deciding how to read it and for telling the user what
/// was found instead.
enum class ContentKind {
  kEmpty,
  kPng,
  kJpeg,
  kPnm,
  kGif,
  kBmp,
  kWebp,
  kTiff,
  kWav,
  kFlac,
  kOgg,
  kMp3,
  kMp4,
  kAvi,
  kMatroska,
  kFlo,
  kGzip,
  kZip,
  kPdf,
  kPickle,
  kJson,
  kHtml,
  kText,
  kUnknown,
};

/// Bytes of the start of a file that content_kind() looks at.
constexpr size_t kContentHeadBytes = 512;

ContentKind content_kind(std::string_view head);

/// "a PNG picture", "plain text", "unknown data starting 00 1f 9c 33".
std::string describe_content(std::string_view head);

}  // namespace perceiver::io
