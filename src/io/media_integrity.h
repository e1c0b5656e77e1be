#pragma once

#include <string>
#include <string_view>

#include "io/content_kind.h"

namespace perceiver::io {

/// FFmpeg plays what is left of a file cut short; we want to say so. Walks the outermost structure
/// (RIFF chunks, MP4 boxes, the last Ogg page, MP3 frames) and compares the sizes it states with
/// the length of the file. FLAC states its length in samples, which the decoder's caller compares.
/// @throws Error(kFormat) naming `where`
void check_media_complete(ContentKind kind, std::string_view bytes, const std::string& where);

}  // namespace perceiver::io
