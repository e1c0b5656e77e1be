#include "perceiver/nn/parameters.h"

#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>

#include "nn/neighbours.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::nn {

const at::Tensor& Parameters::at(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    throw Error(ErrorCode::kInternal, cat("no parameter is called ", name));
  }
  return entries_[found->second].tensor;
}

void Parameters::add(ParameterInfo info, at::Tensor tensor) {
  index_.emplace(info.name, entries_.size());
  entries_.push_back({std::move(info), std::move(tensor)});
}

void Parameters::lay_together(const std::vector<std::string>& names) {
  std::vector<at::Tensor> before;
  for (const std::string& name : names) {
    before.push_back(at(name));
  }
  const c10::AutoGradMode no_gradients(false);
  const std::vector<at::Tensor> after = parted(at::cat(before), before, 0);
  for (size_t i = 0; i < names.size(); ++i) {
    entries_[index_.at(names[i])].tensor = after[i];
  }
}

void Parameters::requires_grad(bool on) {
  for (Entry& entry : entries_) {
    if (entry.info.trainable) {
      entry.tensor.requires_grad_(on);
    }
  }
}

ArrayMap Parameters::to_arrays() const {
  ArrayMap arrays;
  for (const Entry& entry : entries_) {
    const at::Tensor& tensor = entry.tensor;
    const bool widen = tensor.is_floating_point() && tensor.scalar_type() != at::kFloat;
    // clone: the caller may keep the array while training goes on changing the tensor
    arrays.emplace(entry.info.name,
                   to_array(widen ? tensor.to(at::kFloat) : tensor.detach().clone()));
  }
  return arrays;
}

}  // namespace perceiver::nn
