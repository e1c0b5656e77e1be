#include "runtime/pages.h"

#include <cstdlib>
#include <sys/mman.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::runtime {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

[[noreturn]] void refuse(int64_t bytes) {
  throw Error(ErrorCode::kIo, cat("out of memory: no room for a block of ", bytes, " bytes"));
}

/// A mapping that starts on a huge page: what lies before and behind goes back at once.
std::byte* map_aligned(int64_t bytes) {
  const int64_t whole = bytes + kHugePage;
  void* mapping = ::mmap(nullptr, static_cast<size_t>(whole), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    refuse(bytes);
  }
  auto* first = static_cast<std::byte*>(mapping);
  const int64_t skip =
      kHugePage - static_cast<int64_t>(reinterpret_cast<uintptr_t>(first) % kHugePage);
  ::munmap(first, static_cast<size_t>(skip));
  if (whole - skip > bytes) {
    ::munmap(first + skip + bytes, static_cast<size_t>(whole - skip - bytes));
  }
  ::madvise(first + skip, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish; may fail
  return first + skip;
}

}  // namespace

Pages::Pages(int64_t bytes) {
  constexpr int64_t kPage = 4096;
  if (bytes > INT64_MAX - 2 * kHugePage) {
    refuse(bytes);
  }
  if (bytes >= kHugePage) {
    size_ = round_up(bytes, kPage);
    data_ = map_aligned(size_);
    return;
  }
  size_ = round_up(bytes > 0 ? bytes : 1, kCacheLine);
  data_ = static_cast<std::byte*>(std::aligned_alloc(kCacheLine, static_cast<size_t>(size_)));
  if (data_ == nullptr) {
    refuse(bytes);
  }
}

Pages::~Pages() {
  if (size_ >= kHugePage) {
    ::munmap(data_, static_cast<size_t>(size_));
  } else {
    std::free(data_);
  }
}

}  // namespace perceiver::runtime
