#pragma once

#include <filesystem>
#include <string>

#include "perceiver/base/array.h"

namespace perceiver::io {

enum class CheckpointKind {
  kSafetensors,
  kTorch,  ///< `torch.save`, zip or older
  kHaiku,  ///< a pickle of numpy arrays
};

/// Tells by its first bytes, never by its name, what kind of checkpoint a file is.
/// @throws Error(kIo); Error(kFormat) saying what the file looks like instead
CheckpointKind sniff_checkpoint(const std::filesystem::path& path);

/// Reads a safetensors file or a `torch.save` file, whichever it is.
/// @throws as their readers; Error(kFormat) for a Haiku pickle, whose names mean something else
ArrayMap read_checkpoint(const std::filesystem::path& path);

/// Reads the weights of a Hugging Face folder: the first it has of `model.safetensors`,
/// `model.safetensors.index.json` with its shards, `pytorch_model.bin` and
/// `pytorch_model.bin.index.json` with its shards.
/// @throws Error(kIo) listing these names when none is there; Error(kFormat) for an index that
///   names files outside the folder, or disagrees with its shards
ArrayMap read_hugging_face_weights(const std::filesystem::path& folder);

/// @throws Error(kFormat) naming `where`, the first array with a NaN or an infinity, and its index
void require_finite(const ArrayMap& arrays, const std::string& where);

}  // namespace perceiver::io
