#include "kernels/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace perceiver::kernels {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};

struct Buffer {
  std::unique_ptr<float, Free> data;
  int64_t floats = 0;
};

}  // namespace

float* thread_scratch(ScratchUse use, int64_t floats) {
  thread_local Buffer buffers[kScratchUses];
  Buffer& buffer = buffers[static_cast<int>(use)];
  if (buffer.floats < floats) {
    const int64_t rounded = (floats + 15) / 16 * 16;
    buffer = {};
    buffer.data.reset(
        static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(rounded) * sizeof(float))));
    if (buffer.data == nullptr) {
      throw std::bad_alloc();
    }
    buffer.floats = rounded;
  }
  return buffer.data.get();
}

}  // namespace perceiver::kernels
