#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace perceiver::runtime {

inline constexpr int64_t kCacheLine = 64;

/// The smallest multiple that is not below `value`.
inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// `whole` in as few parts as `most` allows, of about one size, in multiples of `step`.
inline int64_t even_part(int64_t whole, int64_t most, int64_t step) {
  const int64_t count = (whole + most - 1) / most;
  return round_up((whole + count - 1) / count, step);
}

/// Memory straight from the system: large blocks start on a huge page and go back whole, so that
/// loading a model leaves no holes in the heap. Not initialised.
class Pages {
 public:
  Pages() = default;
  /// @throws Error(kIo) if memory is refused
  explicit Pages(int64_t bytes);
  ~Pages();
  Pages(Pages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace perceiver::runtime
