#include "perceiver/base/array.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver {

static_assert(std::endian::native == std::endian::little, "Array holds little-endian bytes");
static_assert(sizeof(bool) == 1, "Array stores a bool in one byte");

int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
    case DType::kU16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  throw Error(ErrorCode::kInternal, "dtype_size: not a dtype");
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU64:
      return "U64";
    case DType::kU32:
      return "U32";
    case DType::kU16:
      return "U16";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  throw Error(ErrorCode::kInternal, "dtype_name: not a dtype");
}

int64_t element_count(const std::vector<int64_t>& shape) {
  // A zero anywhere makes the product zero, however large the other extents are.
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) {
      throw Error(ErrorCode::kShape, cat("shape ", shape_string(shape), " has a negative extent"));
    }
    empty = empty || extent == 0;
  }
  if (empty) {
    return 0;
  }
  int64_t count = 1;
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(count, extent, &count)) {
      throw Error(ErrorCode::kShape, cat("shape ", shape_string(shape), " is too large"));
    }
  }
  return count;
}

namespace {

int64_t byte_count(DType dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(element_count(shape), dtype_size(dtype), &bytes)) {
    throw Error(ErrorCode::kShape, cat("shape ", shape_string(shape), " is too large"));
  }
  return bytes;
}

}  // namespace

Array Array::zeros(DType dtype, std::vector<int64_t> shape) {
  const int64_t bytes = byte_count(dtype, shape);
  // calloc: large blocks come as untouched zero pages. One byte keeps an empty array defined.
  void* memory = std::calloc(bytes == 0 ? 1 : static_cast<size_t>(bytes), 1);
  if (memory == nullptr) {
    throw Error(ErrorCode::kIo, cat("out of memory: no room for the ", bytes,
                                    " bytes of an array of shape ", shape_string(shape)));
  }
  Array array;
  array.owner_ = std::shared_ptr<const void>(memory, [memory](const void*) { std::free(memory); });
  array.dtype_ = dtype;
  array.numel_ = bytes / dtype_size(dtype);
  array.shape_ = std::move(shape);
  array.mutable_ = static_cast<std::byte*>(memory);
  array.data_ = array.mutable_;
  return array;
}

Array Array::view(DType dtype, std::vector<int64_t> shape, const void* data,
                  std::shared_ptr<const void> owner) {
  const int64_t bytes = byte_count(dtype, shape);
  if (bytes > 0 && data == nullptr) {
    throw Error(ErrorCode::kInternal, cat("Array::view: no data for shape ", shape_string(shape)));
  }
  if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(dtype_size(dtype)) != 0) {
    throw Error(ErrorCode::kInternal, cat("Array::view: unaligned ", dtype_name(dtype), " data"));
  }
  Array array;
  array.dtype_ = dtype;
  array.numel_ = bytes / dtype_size(dtype);
  array.shape_ = std::move(shape);
  array.data_ = static_cast<const std::byte*>(data);
  array.owner_ = std::move(owner);
  return array;
}

int64_t Array::size(int64_t i) const {
  const int64_t index = i < 0 ? i + dim() : i;
  if (index < 0 || index >= dim()) {
    throw Error(ErrorCode::kShape, cat("no dimension ", i, " in shape ", shape_string(shape_)));
  }
  return shape_[static_cast<size_t>(index)];
}

std::byte* Array::mutable_bytes() {
  if (mutable_ == nullptr && numel_ > 0) {
    throw Error(ErrorCode::kInternal, "Array: a view must not be written to");
  }
  return mutable_;
}

void Array::check_dtype(DType wanted) const {
  if (dtype_ != wanted) {
    throw Error(ErrorCode::kShape,
                cat("array holds ", dtype_name(dtype_), ", not ", dtype_name(wanted)));
  }
}

void Array::check_count(size_t count) const {
  if (static_cast<size_t>(numel_) != count) {
    throw Error(ErrorCode::kShape, cat(count, " values do not fill shape ", shape_string(shape_)));
  }
}

Array Array::clone() const {
  if (!defined()) {
    return {};
  }
  Array copy = zeros(dtype_, shape_);
  if (numel_ > 0) {
    std::memcpy(copy.mutable_, data_, static_cast<size_t>(nbytes()));
  }
  return copy;
}

Array Array::reshape(std::vector<int64_t> shape) const {
  if (element_count(shape) != numel_) {
    throw Error(ErrorCode::kShape,
                cat("cannot reshape ", shape_string(shape_), " to ", shape_string(shape)));
  }
  Array result = *this;
  result.shape_ = std::move(shape);
  return result;
}

Array Array::rows(int64_t begin, int64_t end) const {
  if (dim() == 0 || begin < 0 || end < begin || end > shape_[0]) {
    throw Error(ErrorCode::kShape,
                cat("no rows [", begin, ", ", end, ") in shape ", shape_string(shape_)));
  }
  const int64_t row = shape_[0] == 0 ? 0 : numel_ / shape_[0];
  Array result = *this;
  result.shape_[0] = end - begin;
  result.numel_ = (end - begin) * row;
  const int64_t offset = begin * row * dtype_size(dtype_);
  if (offset > 0) {
    result.data_ += offset;
    result.mutable_ = mutable_ == nullptr ? nullptr : mutable_ + offset;
  }
  return result;
}

}  // namespace perceiver
