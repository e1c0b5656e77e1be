#pragma once

#include <cstdint>

namespace perceiver::kernels {

/// Independent buffers of one calling thread.
enum class ScratchUse { kTiles, kPartialResults, kBackward, kWeight, kRows };
constexpr int kScratchUses = 5;

/// A 64-byte aligned buffer of the calling thread: the same one at each call, made larger when
/// needed, so that repeated calls allocate nothing, and freed when the thread ends. Its contents
/// do not survive the next call with the same `use`.
/// A kernel asks before its threads start and gives each of them a slice.
/// @throws std::bad_alloc
float* thread_scratch(ScratchUse use, int64_t floats);

}  // namespace perceiver::kernels
