#include "runtime/counted_new.h"

#include <atomic>
#include <cstdlib>
#include <new>

// A file of its own: where the compiler sees both sides it takes the pair for a mismatch.

namespace {

std::atomic<int64_t> allocated{0}, calls{0};

}  // namespace

void* operator new(size_t size) {
  allocated += static_cast<int64_t>(size);
  ++calls;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t /*size*/) noexcept {
  std::free(memory);
}

namespace perceiver::runtime {

int64_t bytes_allocated() {
  return allocated;
}

int64_t allocations() {
  return calls;
}

}  // namespace perceiver::runtime
