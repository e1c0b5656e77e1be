#pragma once

#include <vector>

#include "io/file_bytes.h"
#include "perceiver/io/safetensors.h"

namespace perceiver::io {

std::vector<TensorInfo> list_safetensors(const FileBytes& file, Metadata* metadata);
ArrayMap read_safetensors(const FileBytes& file, Metadata* metadata);

}  // namespace perceiver::io
