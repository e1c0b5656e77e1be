#include "spec/tensor_check.h"

#include <set>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::spec_detail {
namespace {

/// "a, b, c and 5 more"
class NameList {
 public:
  void add(const std::string& text) {
    if (++count_ <= kShown) {
      text_ += (count_ == 1 ? "" : ", ") + text;
    }
  }
  bool empty() const { return count_ == 0; }
  std::string text() const {
    return count_ <= kShown ? text_ : cat(text_, " and ", count_ - kShown, " more");
  }

 private:
  static constexpr int64_t kShown = 8;
  int64_t count_ = 0;
  std::string text_;
};

bool is_float(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

bool dtype_fits(DType given, DType wanted) {
  return is_float(wanted) == is_float(given) && given != DType::kBool;
}

}  // namespace

void check_tensors(const std::vector<WantedTensor>& wanted, const ArrayMap& tensors,
                   const std::string& where) {
  NameList missing, surplus, misshapen;
  std::set<std::string> known;
  for (const WantedTensor& want : wanted) {
    known.insert(want.name);
    const auto found = tensors.find(want.name);
    if (found == tensors.end()) {
      missing.add(cat(want.name, " ", shape_string(want.shape)));
    } else if (found->second.shape() != want.shape) {
      misshapen.add(cat(want.name, " is ", shape_string(found->second.shape()), ", needs ",
                        shape_string(want.shape)));
    } else if (!dtype_fits(found->second.dtype(), want.dtype)) {
      misshapen.add(cat(want.name, " has dtype ", dtype_name(found->second.dtype()), ", needs ",
                        dtype_name(want.dtype)));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!known.contains(name)) {
      surplus.add(cat(printable(name), " ", shape_string(tensor.shape())));
    }
  }
  std::string message;
  const auto append = [&](const char* what, const NameList& list) {
    if (!list.empty()) {
      message += cat(message.empty() ? "" : "; ", what, ": ", list.text());
    }
  };
  append("missing", missing);
  append("surplus", surplus);
  append("misshapen", misshapen);
  if (!message.empty()) {
    throw Error(ErrorCode::kFormat, cat(where, ": tensors do not fit the model; ", message));
  }
}

}  // namespace perceiver::spec_detail
