#pragma once

#include <cstdint>

namespace perceiver::runtime {

/// Bytes this program has asked operator new for so far.
int64_t bytes_allocated();

/// How often it has asked.
int64_t allocations();

}  // namespace perceiver::runtime
