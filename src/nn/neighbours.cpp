#include "nn/neighbours.h"

#include <algorithm>

#include <ATen/ops/as_strided.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace perceiver::nn {
namespace {

/// Whether all are of one type and in one memory, each `step(part)` elements behind the one before.
template <typename Step>
bool follow_each_other(at::TensorList parts, const Step& step) {
  int64_t offset = parts[0].storage_offset();
  return std::all_of(parts.begin(), parts.end(), [&](const at::Tensor& part) {
    const bool follows = part.scalar_type() == parts[0].scalar_type() &&
                         part.storage().is_alias_of(parts[0].storage()) &&
                         part.storage_offset() == offset;
    offset += step(part);
    return follows;
  });
}

/// Over the memory of the first part, without being its view.
at::Tensor over_memory_of(const at::Tensor& first, at::IntArrayRef sizes, at::IntArrayRef strides) {
  return at::as_strided(first.variable_data(), sizes, strides, first.storage_offset());
}

int64_t sum_of_sizes(at::TensorList parts, int64_t dim) {
  int64_t sum = 0;
  for (const at::Tensor& part : parts) {
    sum += part.size(dim);
  }
  return sum;
}

}  // namespace

at::Tensor as_rows(at::TensorList parts) {
  const at::Tensor& first = parts.front();
  const bool together =
      follow_each_other(parts, [](const at::Tensor& part) { return part.numel(); }) &&
      std::all_of(parts.begin(), parts.end(), [&](const at::Tensor& part) {
        return part.is_contiguous() && part.dim() == first.dim() &&
               part.sizes().slice(1) == first.sizes().slice(1);
      });
  if (!together) {
    return {};
  }
  std::vector<int64_t> sizes = first.sizes().vec();
  sizes[0] = sum_of_sizes(parts, 0);
  // not by the first part's strides: those of a single row say nothing
  return over_memory_of(first, {c10::multiply_integers(sizes)}, {1}).view(sizes);
}

at::Tensor as_columns(at::TensorList parts) {
  const at::Tensor& first = parts.front();
  const int64_t width = sum_of_sizes(parts, 1);
  const bool together =
      follow_each_other(parts, [](const at::Tensor& part) { return part.size(1); }) &&
      std::all_of(parts.begin(), parts.end(), [&](const at::Tensor& part) {
        return part.size(0) == first.size(0) && part.stride(1) == 1 &&
               part.stride(0) == first.stride(0) && part.stride(0) >= width;
      });
  return together ? over_memory_of(first, {first.size(0), width}, first.strides()) : at::Tensor();
}

std::vector<at::Tensor> parted(const at::Tensor& whole, at::TensorList like, int64_t dim) {
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const at::Tensor& part : like) {
    parts.push_back(whole.narrow(dim, begin, part.size(0)).variable_data());
    begin += part.size(0);
  }
  return parts;
}

std::vector<at::Tensor> zeros_lying_as(at::TensorList parts) {
  int64_t first = parts[0].storage_offset(), end = 0, count = 0;
  bool together = true;
  for (const at::Tensor& part : parts) {
    int64_t length = 1;
    for (int64_t d = 0; d < part.dim(); ++d) {
      length += (part.size(d) - 1) * part.stride(d);
    }
    first = std::min(first, part.storage_offset());
    end = std::max(end, part.storage_offset() + length);
    count += part.numel();
    together = together && part.numel() > 0 && part.scalar_type() == parts[0].scalar_type() &&
               part.storage().is_alias_of(parts[0].storage());
  }
  std::vector<at::Tensor> zeros;
  if (!together || end - first != count) {
    for (const at::Tensor& part : parts) {
      zeros.push_back(at::zeros_like(part));
    }
    return zeros;
  }
  const at::Tensor all = at::zeros({count}, parts[0].options());
  for (const at::Tensor& part : parts) {
    zeros.push_back(
        at::as_strided(all, part.sizes(), part.strides(), part.storage_offset() - first));
  }
  return zeros;
}

}  // namespace perceiver::nn
