#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace perceiver {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};

/// Bytes of one element.
int64_t dtype_size(DType dtype);
/// Short name as safetensors spells it: "F32", "BF16", "BOOL", ...
const char* dtype_name(DType dtype);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::kI16;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<uint64_t> {
  static constexpr DType value = DType::kU64;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::kU32;
};
template <>
struct DTypeOf<uint16_t> {
  static constexpr DType value = DType::kU16;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};

/// Number of elements of `shape`.
/// @throws Error(kShape) on a negative extent or when the product does not fit int64
int64_t element_count(const std::vector<int64_t>& shape);

/// A dense row-major array with shared ownership of its bytes. Copies share; `clone()` does not.
/// The plain currency between rooms that must not know LibTorch. Bytes are little-endian.
class Array {
 public:
  Array() = default;

  /// Zero-filled. @throws Error(kShape) if the size overflows, Error(kIo) if memory is refused
  static Array zeros(DType dtype, std::vector<int64_t> shape);

  /// Views `data` kept alive by `owner` (a mapped file, a tensor). `data` may be unaligned only for
  /// one-byte dtypes; readers copy otherwise.
  static Array view(DType dtype, std::vector<int64_t> shape, const void* data,
                    std::shared_ptr<const void> owner);

  /// Copies `values`; its length must match `shape`.
  template <typename T>  // NOLINTNEXTLINE(performance-unnecessary-value-param): it is moved on
  static Array of(std::vector<int64_t> shape, const std::vector<T>& values) {
    Array array = zeros(DTypeOf<T>::value, std::move(shape));
    array.check_count(values.size());
    T* out = array.mutable_data<T>();
    for (size_t i = 0; i < values.size(); ++i) {
      out[i] = values[i];
    }
    return array;
  }

  bool defined() const { return data_ != nullptr || !shape_.empty(); }
  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t dim() const { return static_cast<int64_t>(shape_.size()); }
  /// Extent of dimension `i`; negative counts from the end.
  int64_t size(int64_t i) const;
  int64_t numel() const { return numel_; }
  int64_t nbytes() const { return numel_ * dtype_size(dtype_); }

  const std::byte* bytes() const { return data_; }
  /// @throws Error(kInternal) on a view
  std::byte* mutable_bytes();

  /// @throws Error(kShape) if T is not the dtype
  template <typename T>
  const T* data() const {
    check_dtype(DTypeOf<T>::value);
    return reinterpret_cast<const T*>(data_);
  }
  template <typename T>
  T* mutable_data() {
    check_dtype(DTypeOf<T>::value);
    return reinterpret_cast<T*>(mutable_bytes());
  }

  Array clone() const;
  /// Same bytes under another shape. @throws Error(kShape) if the counts differ
  Array reshape(std::vector<int64_t> shape) const;
  /// Rows [begin, end) of dimension 0, sharing memory.
  Array rows(int64_t begin, int64_t end) const;
  /// Converted copy (itself when the dtype already matches). Float to int truncates toward zero,
  /// saturates out of range and makes NaN 0; to half and bfloat16 rounds once, to nearest even;
  /// to bool is `!= 0`; int to narrower int wraps.
  Array to(DType dtype) const;

 private:
  void check_dtype(DType wanted) const;
  void check_count(size_t count) const;

  DType dtype_ = DType::kF32;
  std::vector<int64_t> shape_;
  int64_t numel_ = 0;
  const std::byte* data_ = nullptr;
  std::byte* mutable_ = nullptr;  // null for views
  std::shared_ptr<const void> owner_;
};

/// Named arrays in name order: a checkpoint, the inputs of a model, its outputs.
using ArrayMap = std::map<std::string, Array>;

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);

}  // namespace perceiver
