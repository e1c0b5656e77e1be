// From the described arrays of a numpy pickle to arrays.
#include <algorithm>
#include <cstring>
#include <optional>

#include "io/numpy_dtype.h"
#include "io/numpy_pickle.h"
#include "io/pickle_text.h"

namespace perceiver::io {
namespace {

DType dtype_of(const FileBytes& file, const NumpyDType& dtype, const std::string& named) {
  constexpr std::string_view kOrders = "<>=|";
  const bool known_order = kOrders.find(dtype.byte_order) != std::string_view::npos;
  const auto known = plain_numpy_dtype(dtype.code);
  if (known && known_order) {
    return *known;
  }
  file.unsupported(
      cat(named, " has numpy dtype \"", printable(dtype.code), "\", not plain numbers"));
}

void swap_bytes(std::byte* bytes, int64_t count, int64_t size) {
  for (int64_t i = 0; i < count; ++i) {
    std::reverse(bytes + i * size, bytes + (i + 1) * size);
  }
}

// Column-major `from` into row-major `to`.
void copy_fortran(const std::byte* from, const std::vector<int64_t>& shape, int64_t size,
                  std::byte* to) {
  const int64_t count = element_count(shape);
  std::vector<int64_t> index(shape.size(), 0);
  std::vector<int64_t> strides(shape.size(), size);
  for (size_t d = 1; d < shape.size(); ++d) {
    strides[d] = strides[d - 1] * shape[d - 1];
  }
  const std::byte* at = from;
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * size, at, static_cast<size_t>(size));
    for (size_t d = shape.size(); d > 0; --d) {
      at += strides[d - 1];
      if (++index[d - 1] < shape[d - 1]) {
        break;
      }
      at -= strides[d - 1] * shape[d - 1];
      index[d - 1] = 0;
    }
  }
}

int64_t byte_count(const FileBytes& file, const std::vector<int64_t>& shape, DType dtype,
                   const std::string& named) {
  int64_t bytes = 0;
  try {
    bytes = element_count(shape);
  } catch (const Error& error) {
    file.refuse(cat(named, ": ", error.what()));
  }
  if (__builtin_mul_overflow(bytes, dtype_size(dtype), &bytes)) {
    file.refuse(cat(named, ": shape ", shape_string(shape), " is too large"));
  }
  return bytes;
}

}  // namespace

Array build_numpy_array(const FileBytes& file, NumpyArray& array, ArrayBudget& budget,
                        const std::string& named) {
  if (array.built.defined()) {
    return array.built;
  }
  if (!array.filled) {
    file.refuse(named + " was never given its contents");
  }
  const DType dtype = dtype_of(file, *array.dtype, named);
  const int64_t bytes = byte_count(file, array.shape, dtype, named);
  const auto* encoded = array.data->as<EncodedBytes>();
  std::string decoded;
  std::string_view data = array.data->text;
  if (encoded != nullptr) {
    // Latin-1 text takes one or two bytes per byte, so this bounds the decoded copy.
    budget.charge(encoded->text.size(), named);
    std::optional<std::string> content = latin1_bytes(encoded->text, static_cast<uint64_t>(bytes));
    decoded = content ? std::move(*content) : std::string();
    data = decoded;
  } else if (!array.data->is_bytes()) {
    file.refuse(named + " has no bytes for its contents");
  }
  if (data.size() != static_cast<uint64_t>(bytes)) {
    file.refuse(cat(named, ": ", dtype_name(dtype), " of shape ", shape_string(array.shape),
                    " needs ", bytes, " bytes, the file has ",
                    encoded != nullptr ? "another number" : std::to_string(data.size())));
  }
  budget.charge(data.size(), named);
  Array result = Array::zeros(dtype, array.shape);
  const auto* from = reinterpret_cast<const std::byte*>(data.data());
  if (array.fortran_order && bytes > 0) {
    copy_fortran(from, array.shape, dtype_size(dtype), result.mutable_bytes());
  } else if (bytes > 0) {
    std::memcpy(result.mutable_bytes(), from, data.size());
  }
  if (array.dtype->byte_order == '>') {
    swap_bytes(result.mutable_bytes(), result.numel(), dtype_size(dtype));
  }
  if (dtype == DType::kBool && !are_bools(result.bytes(), result.numel())) {
    file.refuse(named + ": a bool that is neither 0 nor 1");
  }
  array.built = result;
  return result;
}

}  // namespace perceiver::io
