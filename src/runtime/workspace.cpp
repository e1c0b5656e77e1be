#include "runtime/workspace.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::runtime {
namespace {

constexpr int64_t kLineFloats = kCacheLine / static_cast<int64_t>(sizeof(float));
constexpr int64_t kSmallestChunk = int64_t{256} << 10;
constexpr int64_t kLargestTake = INT64_MAX / 16;

}  // namespace

std::byte* Workspace::take_bytes(int64_t count) {
  if (count < 0 || count > kLargestTake) {
    throw Error(ErrorCode::kIo, cat("out of memory: no room for a block of ", count, " bytes"));
  }
  const int64_t bytes = round_up(std::max<int64_t>(count, 1), kCacheLine);
  while (current_ < chunks_.size() &&
         chunks_[current_].pages.size() - chunks_[current_].used < bytes) {
    ++current_;
  }
  if (current_ == chunks_.size()) {
    chunks_.push_back({Pages(std::max(bytes, kSmallestChunk)), 0});
  }
  Chunk& chunk = chunks_[current_];
  std::byte* data = chunk.pages.data() + chunk.used;
  chunk.used += bytes;
  taken_ += bytes;
  peak_ = std::max(peak_, taken_);
  return data;
}

float* Workspace::take(int64_t count) {
  if (count > kLargestTake) {
    throw Error(ErrorCode::kIo, cat("out of memory: no room for ", count, " floats"));
  }
  return reinterpret_cast<float*>(take_bytes(count * static_cast<int64_t>(sizeof(float))));
}

Matrix Workspace::matrix(int64_t rows, int64_t columns) {
  int64_t stride = round_up(std::max<int64_t>(columns, 1), kLineFloats);
  if (stride / kLineFloats % 2 == 0 && rows > 1) {
    stride += kLineFloats;
  }
  int64_t count = 0;
  if (__builtin_mul_overflow(rows, stride, &count)) {
    count = INT64_MAX;
  }
  return {take(count), rows, columns, stride};
}

Matrix Workspace::dense(int64_t rows, int64_t columns) {
  int64_t count = 0;
  if (__builtin_mul_overflow(rows, columns, &count)) {
    count = INT64_MAX;
  }
  return {take(count), rows, columns, columns};
}

InParts<Matrix> Workspace::parts(int64_t rows, int64_t columns, int64_t width) {
  const int64_t count = (columns + width - 1) / width;
  const Matrix all = matrix(rows * count, width);
  return {all.block(0, rows), columns, rows * all.stride};
}

InParts<Matrix> Workspace::dense_parts(int64_t rows, int64_t columns, int64_t width) {
  const int64_t count = (columns + width - 1) / width;
  return {dense(rows * count, width).block(0, rows), columns, rows * width};
}

int64_t Workspace::held_bytes() const {
  int64_t held = 0;
  for (const Chunk& chunk : chunks_) {
    held += chunk.pages.size();
  }
  return held;
}

void Workspace::give_back(size_t chunk, int64_t used, int64_t taken) {
  for (size_t i = chunk; i < chunks_.size(); ++i) {
    chunks_[i].used = i == chunk ? used : 0;
  }
  current_ = chunk;
  taken_ = taken;
  if (taken_ == 0 && chunks_.size() > 1) {
    // one block of the peak fits every later run of the same shapes, without the chunks' gaps
    chunks_.clear();
    current_ = 0;
    try {
      chunks_.push_back({Pages(peak_), 0});
    } catch (const Error&) {
      chunks_.clear();  // this runs in a destructor: the next take() reports it
    }
  }
}

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(workspace),
      chunk_(workspace.current_),
      used_(workspace.current_ < workspace.chunks_.size() ? workspace.chunks_[chunk_].used : 0),
      taken_(workspace.taken_) {}

Workspace::Scope::~Scope() {
  workspace_.give_back(chunk_, used_, taken_);
}

}  // namespace perceiver::runtime
