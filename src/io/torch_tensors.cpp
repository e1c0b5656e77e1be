// From the described tensors of a torch pickle to arrays.
#include <bit>
#include <cstring>
#include <map>

#include "io/torch_pickle.h"

namespace perceiver::io {
namespace {

constexpr int kMaxNesting = 4;  // {"model": {"state_dict": {...}}} and the like

bool row_major(const TorchTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i > 0; --i) {
    if (tensor.shape[i - 1] != 1 && tensor.strides[i - 1] != expected) {
      return false;
    }
    expected *= tensor.shape[i - 1];
  }
  return true;
}

// Copies the window that `from` starts into row-major order.
void copy_strided(const TorchTensor& tensor, const std::byte* from, size_t size, std::byte* to) {
  const size_t rank = tensor.shape.size();
  std::vector<int64_t> index(rank, 0);
  int64_t position = 0;
  const int64_t count = element_count(tensor.shape);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to, from + position * static_cast<int64_t>(size), size);
    to += size;
    for (size_t d = rank; d > 0; --d) {
      if (tensor.shape[d - 1] == 1) {
        continue;  // its stride was not checked and may be anything
      }
      position += tensor.strides[d - 1];
      if (++index[d - 1] < tensor.shape[d - 1]) {
        break;
      }
      position -= tensor.strides[d - 1] * tensor.shape[d - 1];
      index[d - 1] = 0;
    }
  }
}

class Builder {
 public:
  Builder(const FileBytes& file, const FindStorage& find_storage)
      : file_(file), find_storage_(find_storage), budget_(file) {}

  Array build(const TorchTensor& tensor, const std::string& named) {
    const DType dtype = dtype_of(tensor, named);
    const int64_t count = checked_count(tensor, named);
    const Array storage = storage_of(tensor, dtype, named);
    if (count == 0) {
      return Array::zeros(dtype, tensor.shape);
    }
    check_window(tensor, storage.numel(), named);
    const int64_t size = dtype_size(dtype);
    const std::byte* from = storage.bytes() + tensor.offset * size;
    if (row_major(tensor)) {
      const auto owner = std::make_shared<Array>(storage);
      return Array::view(dtype, tensor.shape, from, owner);
    }
    int64_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) {
      file_.refuse(named + " is too large");
    }
    budget_.charge(static_cast<uint64_t>(bytes), named);
    Array result = Array::zeros(dtype, tensor.shape);
    copy_strided(tensor, from, static_cast<size_t>(size), result.mutable_bytes());
    return result;
  }

 private:
  DType dtype_of(const TorchTensor& tensor, const std::string& named) const {
    const std::string& name = tensor.dtype.empty() ? tensor.storage->type : tensor.dtype;
    const std::optional<DType> dtype = torch_dtype(name);
    if (!dtype) {
      file_.unsupported(cat(named, " holds numbers of type ", name, ", which is not supported"));
    }
    return *dtype;
  }

  int64_t checked_count(const TorchTensor& tensor, const std::string& named) const {
    if (tensor.shape.size() != tensor.strides.size()) {
      file_.refuse(cat(named, ": shape ", shape_string(tensor.shape), " has other strides ",
                       shape_string(tensor.strides)));
    }
    try {
      return element_count(tensor.shape);
    } catch (const Error& error) {
      file_.refuse(cat(named, ": ", error.what()));
    }
  }

  // The last element of the window must lie in the storage; so no index can overflow afterwards.
  void check_window(const TorchTensor& tensor, int64_t available, const std::string& named) const {
    int64_t last = tensor.offset;
    bool fits = last >= 0;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      int64_t step = 0;
      fits = fits && tensor.strides[i] >= 0 &&
             !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &step) &&
             !__builtin_add_overflow(last, step, &last);
    }
    if (!fits || last >= available) {
      file_.refuse(cat(named, ": shape ", shape_string(tensor.shape), " with strides ",
                       shape_string(tensor.strides), " at ", tensor.offset,
                       " does not fit its storage of ", available, " elements"));
    }
  }

  // One Array per storage and dtype, shared by all tensors in it: a view of the file where that is
  // aligned, else a copy.
  Array storage_of(const TorchTensor& tensor, DType dtype, const std::string& named) {
    const TorchStorage& storage = *tensor.storage;
    const std::optional<std::string_view> bytes = find_storage_(storage.key);
    if (!bytes) {
      file_.refuse(cat(named, ": storage \"", printable(storage.key), "\" is not in the file"));
    }
    const int64_t size = dtype_size(dtype);
    int64_t wanted = 0;
    const bool counted_in_bytes = !tensor.dtype.empty();
    if (storage.size < 0 ||
        __builtin_mul_overflow(storage.size, counted_in_bytes ? 1 : size, &wanted) ||
        static_cast<uint64_t>(wanted) != bytes->size() || wanted % size != 0) {
      file_.refuse(cat(named, ": storage \"", printable(storage.key), "\" has ", bytes->size(),
                       " bytes, not ", storage.size,
                       counted_in_bytes ? "" : " elements of its type"));
    }
    const std::pair key(std::string(storage.key), dtype);
    if (const auto found = storages_.find(key); found != storages_.end()) {
      return found->second;
    }
    Array array = make_storage(*bytes, dtype, wanted / size, named);
    if (dtype == DType::kBool && !are_bools(array.bytes(), array.numel())) {
      file_.refuse(named + ": a bool that is neither 0 nor 1");
    }
    storages_.emplace(key, array);
    return array;
  }

  Array make_storage(std::string_view bytes, DType dtype, int64_t count, const std::string& named) {
    const auto alignment = static_cast<uintptr_t>(dtype_size(dtype));
    if (std::bit_cast<uintptr_t>(bytes.data()) % alignment == 0) {
      return Array::view(dtype, {count}, bytes.data(), file_.owner);
    }
    budget_.charge(bytes.size(), named);
    Array array = Array::zeros(dtype, {count});
    if (!bytes.empty()) {
      std::memcpy(array.mutable_bytes(), bytes.data(), bytes.size());
    }
    return array;
  }

  const FileBytes& file_;
  const FindStorage& find_storage_;
  ArrayBudget budget_;
  std::map<std::pair<std::string, DType>, Array> storages_;
};

// Whether a tensor is reachable within `depth` steps. Remembers what it has seen, because a hostile
// pickle can share its lists so that there are exponentially many ways through them.
class TensorSearch {
 public:
  bool bears(const PickleValue& value, int depth) {
    if (value.as<TorchTensor>() != nullptr) {
      return true;
    }
    const bool walked =
        value.is(PickleKind::kDict) || value.is(PickleKind::kList) || value.is(PickleKind::kTuple);
    if (!walked || depth == 0) {
      return false;
    }
    const auto [known, is_new] = known_.emplace(std::pair(&value, depth), false);
    if (is_new) {
      for (const PickleValue* item : value.items) {
        if (bears(*item, depth - 1)) {
          known->second = true;
          break;
        }
      }
    }
    return known->second;
  }

 private:
  std::map<std::pair<const PickleValue*, int>, bool> known_;
};

// The dict whose values are the tensors: the value itself, or the only child that bears any.
const PickleValue& find_state_dict(const FileBytes& file, const PickleValue& top) {
  const PickleValue* dict = &top;
  TensorSearch search;
  for (int depth = 0; depth < kMaxNesting; ++depth) {
    const std::string what = depth == 0 ? "the checkpoint" : "the dict inside the checkpoint";
    std::vector<std::string_view> bearers;
    const PickleValue* child = nullptr;
    bool direct = false;
    for (const auto& [name, value] : text_items(file, *dict, what)) {
      direct = direct || value->as<TorchTensor>() != nullptr;
      if (value->as<TorchTensor>() == nullptr && search.bears(*value, kMaxNesting)) {
        bearers.push_back(name);
        child = value;
      }
    }
    if (bearers.empty()) {
      return *dict;
    }
    if (direct || bearers.size() > 1) {
      const std::string others =
          direct ? "the others" : cat("those of \"", printable(bearers.back()), "\"");
      file.refuse(cat("not one dict of tensors: \"", printable(bearers.front()),
                      "\" holds tensors of its own beside ", others));
    }
    dict = child;
  }
  file.refuse("its tensors are nested too deep");
}

}  // namespace

ArrayMap build_torch_tensors(const FileBytes& file, const PickleValue& top,
                             const FindStorage& find_storage) {
  if (top.as<TorchTensor>() != nullptr) {
    file.refuse("holds one tensor without a name, not a dict of tensors");
  }
  const PickleValue& dict = find_state_dict(file, top);
  Builder builder(file, find_storage);
  ArrayMap arrays;
  for (const auto& [name, value] : text_items(file, dict, "the checkpoint")) {
    const auto* tensor = value->as<TorchTensor>();
    if (tensor == nullptr) {
      continue;
    }
    if (name.size() > kMaxTensorName) {
      file.refuse(cat("a tensor's name of ", name.size(), " bytes is too long"));
    }
    add_array(file, arrays, std::string(name), builder.build(*tensor, tensor_named(name)));
  }
  if (arrays.empty()) {
    file.refuse("holds no tensors");
  }
  return arrays;
}

}  // namespace perceiver::io
