#include "train/data/tensor_files.h"

#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/io/npy.h"
#include "perceiver/io/safetensors.h"

namespace perceiver::train {

TensorFiles::TensorFiles(const TensorFilesSpec& spec) {
  if (!spec.safetensors.empty()) {
    arrays_ = io::read_safetensors(spec.safetensors);
    for (const auto& [name, unused] : arrays_) {
      files_[name] = printable(spec.safetensors.string());
    }
  }
  for (const auto& [name, path] : spec.npy) {
    arrays_[name] = io::read_npy(path);
    files_[name] = printable(path.string());
  }
}

const Array& TensorFiles::at(const std::string& array, const std::string& wanted_by) const {
  const auto found = arrays_.find(array);
  if (found == arrays_.end()) {
    std::string known;
    for (const auto& [name, unused] : arrays_) {
      known += (known.empty() ? "" : ", ") + printable(name, 40);
    }
    throw Error(ErrorCode::kArgument, cat(wanted_by, " names array '", printable(array, 40),
                                          "'; there are: ", printable(known, 400)));
  }
  if (found->second.dim() == 0) {
    throw Error(ErrorCode::kShape,
                cat(named(array), " is a single number; its first axis must count examples"));
  }
  return found->second;
}

std::string TensorFiles::named(const std::string& array) const {
  const auto found = files_.find(array);
  return cat("array '", printable(array, 40), "' of ",
             found == files_.end() ? "no file" : found->second);
}

Array gather_rows(const Array& array, const std::vector<int64_t>& chosen, DType dtype) {
  std::vector<int64_t> shape = array.shape();
  shape[0] = static_cast<int64_t>(chosen.size());
  Array rows = Array::zeros(array.dtype(), shape);
  const auto bytes =
      static_cast<size_t>(array.size(0) > 0 ? array.nbytes() / array.size(0) : int64_t{0});
  for (size_t i = 0; bytes > 0 && i < chosen.size(); ++i) {
    std::memcpy(rows.mutable_bytes() + i * bytes,
                array.bytes() + static_cast<size_t>(chosen[i]) * bytes, bytes);
  }
  return rows.to(dtype);
}

}  // namespace perceiver::train
