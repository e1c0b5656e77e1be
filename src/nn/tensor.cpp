#include "perceiver/nn/tensor.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/Device.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::nn {

at::ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return at::kDouble;
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kI64:
      return at::kLong;
    case DType::kI32:
      return at::kInt;
    case DType::kI16:
      return at::kShort;
    case DType::kI8:
      return at::kChar;
    case DType::kU8:
      return at::kByte;
    case DType::kBool:
      return at::kBool;
    default:
      break;
  }
  throw Error(ErrorCode::kUnsupported,
              cat("tensors of dtype ", dtype_name(dtype), " are not supported"));
}

namespace {

DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::kF64;
    case at::kFloat:
      return DType::kF32;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kLong:
      return DType::kI64;
    case at::kInt:
      return DType::kI32;
    case at::kShort:
      return DType::kI16;
    case at::kChar:
      return DType::kI8;
    case at::kByte:
      return DType::kU8;
    case at::kBool:
      return DType::kBool;
    default:
      break;
  }
  throw Error(ErrorCode::kUnsupported,
              cat("tensor type ", c10::toString(type), " has no array form"));
}

}  // namespace

at::Tensor to_tensor(const Array& array) {
  auto* keep_alive = new Array(array);  // NOLINT: owned by the deleter below
  // from_blob wants a mutable pointer; nobody writes through it (see the header).
  void* data = const_cast<std::byte*>(array.bytes());
  return at::from_blob(
      data, array.shape(), [keep_alive](void*) { delete keep_alive; },
      at::TensorOptions().dtype(to_scalar_type(array.dtype())));
}

Array to_array(const at::Tensor& tensor) {
  auto owner = std::make_shared<at::Tensor>(tensor.detach().to(at::kCPU).contiguous());
  return Array::view(to_dtype(owner->scalar_type()), owner->sizes().vec(), owner->const_data_ptr(),
                     owner);
}

}  // namespace perceiver::nn
