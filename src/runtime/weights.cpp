#include "runtime/weights.h"

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/parameters.h"

namespace perceiver::runtime {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

std::vector<float> copy_floats(const Array& array) {
  const Array floats = array.to(DType::kF32);
  const float* first = floats.data<float>();
  return {first, first + floats.numel()};
}

}  // namespace

Weights::Weights(const ModelSpec& spec, const ArrayMap& arrays) {
  check_parameters(spec, arrays, spec.name.empty() ? "weights" : spec.name);
  for (const ParameterInfo& info : parameter_table(spec)) {
    const Array& array = arrays.at(info.name);
    const bool odd = is_float(info.dtype) && !is_float(array.dtype());  // a float stored as integer
    arrays_.emplace(info.name, odd ? array.to(DType::kF32) : array);
  }
}

bool Weights::contains(const std::string& name) const {
  return arrays_.count(name) != 0;
}

const Array& Weights::original(const std::string& name) const {
  const auto found = arrays_.find(name);
  if (found == arrays_.end()) {
    throw Error(ErrorCode::kInternal, cat("no weight is called ", name, ", or it was released"));
  }
  return found->second;
}

const Array& Weights::at(const std::string& name) const {
  const Array& array = original(name);
  if (array.dtype() == DType::kF32 || !is_float(array.dtype())) {
    return array;
  }
  const auto found = converted_.find(name);
  return found != converted_.end() ? found->second
                                   : converted_.emplace(name, array.to(DType::kF32)).first->second;
}

Affine Weights::affine(const std::string& prefix) const {
  const Array& weight = original(prefix + ".weight");
  Affine affine;
  affine.out = weight.size(0);
  affine.in = affine.out == 0 ? 0 : weight.numel() / affine.out;
  affine.weight = copy_floats(weight);
  if (contains(prefix + ".bias")) {
    affine.bias = copy_floats(original(prefix + ".bias"));
  }
  return affine;
}

void Weights::release(const std::string& name) {
  converted_.erase(name);
  const auto found = arrays_.find(name);
  if (found != arrays_.end()) {
    MappedFile::forget(found->second.bytes(), static_cast<uint64_t>(found->second.nbytes()));
    arrays_.erase(found);
  }
}

void Weights::release_all(const std::string& prefix) {
  const std::string beginning = prefix + ".";
  for (auto next = arrays_.lower_bound(beginning);
       next != arrays_.end() && next->first.starts_with(beginning);) {
    const std::string name = (next++)->first;
    release(name);
  }
}

}  // namespace perceiver::runtime
