#pragma once

#include "io/file_bytes.h"
#include "perceiver/io/npy.h"

namespace perceiver::io {

Array read_npy(const FileBytes& file);

}  // namespace perceiver::io
