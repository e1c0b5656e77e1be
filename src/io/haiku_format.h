#pragma once

#include "io/file_bytes.h"
#include "perceiver/io/haiku_checkpoint.h"

namespace perceiver::io {

HaikuCheckpoint read_haiku_checkpoint(const FileBytes& file);

}  // namespace perceiver::io
