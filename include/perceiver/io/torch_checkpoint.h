#pragma once

#include <filesystem>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Reads the tensors of a file written by `torch.save`: the zip container of 1.6 and later, or the
/// older one. Nothing in the file is executed: its pickle may name only storages, the functions
/// that rebuild tensors and parameters, and OrderedDict, and those names are interpreted here.
///
/// The file must hold a dict of tensors. Values of it that are not tensors are ignored. A dict
/// inside the dict (`{"state_dict": {...}, "epoch": 3}`) is read if it alone holds tensors.
///
/// Contiguous tensors share their storage (with the mapped file where that is aligned); transposed
/// and strided ones become contiguous copies.
/// @throws Error(kIo); Error(kFormat) naming the file and the global, storage or tensor;
///   Error(kUnsupported) for big-endian files, TorchScript archives, complex and quantized tensors
ArrayMap read_torch_checkpoint(const std::filesystem::path& path);

}  // namespace perceiver::io
