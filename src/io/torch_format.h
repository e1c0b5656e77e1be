#pragma once

#include "io/file_bytes.h"
#include "perceiver/io/torch_checkpoint.h"

namespace perceiver::io {

/// Whether a file is a torch.save container from before the zip one (1.6).
bool is_legacy_torch(std::string_view bytes);

ArrayMap read_torch_checkpoint(const FileBytes& file);

}  // namespace perceiver::io
