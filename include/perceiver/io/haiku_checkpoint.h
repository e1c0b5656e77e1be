#pragma once

#include <filesystem>

#include "perceiver/base/array.h"

namespace perceiver::io {

/// Arrays named "<module>/<parameter>", e.g. "perceiver_encoder/~/self_attention/mlp/linear/w".
struct HaikuCheckpoint {
  ArrayMap params;
  ArrayMap state;  ///< of BatchNorm: "<module>/average", "/hidden", "/counter"; else empty
};

/// Reads a pickle of Haiku parameters as DeepMind released them: module -> parameter -> array,
/// alone or as `params` beside `state`. Mappings may be dict, FlatMapping or frozendict; arrays
/// numpy 1, numpy 2 or jax; the pickle protocol 0 to 5. Nothing in the file is executed: it may
/// name only those classes, and they are interpreted here.
/// @throws Error(kIo); Error(kFormat) naming the file and the global or array;
///   Error(kUnsupported) for arrays that do not hold plain numbers
HaikuCheckpoint read_haiku_checkpoint(const std::filesystem::path& path);

}  // namespace perceiver::io
