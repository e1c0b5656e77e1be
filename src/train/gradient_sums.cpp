#include "train/gradient_sums.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace perceiver::train {

class GradientSums::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientSums& sums, size_t place) : sums_(sums), place_(place) {}
  void operator()(const at::Tensor& /*parameter*/) override {
    if (sums_.open_) {
      sums_.take(sums_.places_[place_]);
      sums_.start_full_buckets();
    }
  }

 private:
  GradientSums& sums_;
  size_t place_;
};

int64_t GradientSums::bucket_bytes_of(int num_processes) {
  constexpr int64_t kLeast = 4 << 20, kPart = 128 << 10;
  return std::max(kLeast, kPart * num_processes);
}

GradientSums::GradientSums(nn::Parameters& parameters, distributed::Group& group,
                           int64_t bucket_bytes)
    : parameters_(parameters), group_(group) {
  bucket_bytes = bucket_bytes > 0 ? bucket_bytes : bucket_bytes_of(group.size());
  const auto& entries = parameters.entries();
  std::vector<int64_t> sizes;
  for (size_t i = entries.size(); i-- > 0;) {
    const at::Tensor& tensor = entries[i].tensor;
    if (!tensor.requires_grad()) {
      continue;
    }
    const auto limit = bucket_bytes / static_cast<int64_t>(tensor.element_size());
    if (buckets_.empty() || sizes.back() + tensor.numel() > limit) {
      buckets_.emplace_back();
      sizes.push_back(0);
    }
    places_.push_back({i, buckets_.size() - 1, sizes.back(), 0});
    sizes.back() += tensor.numel();
    ++buckets_.back().places;
  }
  for (Place& place : places_) {
    place.mark = sizes[place.bucket]++;  // marks follow the values
  }
  for (size_t i = 0; i < places_.size(); ++i) {
    const at::Tensor& tensor = entries[places_[i].entry].tensor;
    at::Tensor& values = buckets_[places_[i].bucket].values;
    if (!values.defined()) {
      values = at::empty({sizes[places_[i].bucket]}, tensor.options().requires_grad(false));
    }
    torch::autograd::impl::set_post_acc_grad_hooks(tensor, std::make_unique<Hook>(*this, i));
  }
}

GradientSums::~GradientSums() {
  for (const Place& place : places_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameters_.entries()[place.entry].tensor,
                                                   nullptr);
  }
}

void GradientSums::begin() {
  for (Place& place : places_) {
    place.done = false;
  }
  for (Bucket& bucket : buckets_) {
    bucket.waiting = bucket.places;
  }
  next_ = 0;
  open_ = true;
}

void GradientSums::take(Place& place) {
  const c10::AutoGradMode no_gradients(false);
  Bucket& bucket = buckets_[place.bucket];
  const at::Tensor& parameter = parameters_.entries()[place.entry].tensor;
  const at::Tensor into = bucket.values.narrow(0, place.offset, parameter.numel());
  const bool has = parameter.grad().defined();
  if (has) {
    into.copy_(parameter.grad().flatten());
  } else {
    into.zero_();
  }
  bucket.values.narrow(0, place.mark, 1).fill_(has ? 1 : 0);
  place.done = true;
  --bucket.waiting;
}

void GradientSums::start_full_buckets() {
  for (; next_ < buckets_.size() && buckets_[next_].waiting == 0; ++next_) {
    buckets_[next_].sum = group_.start_sum(buckets_[next_].values);
  }
}

void GradientSums::start_rest() {
  open_ = false;
  for (Place& place : places_) {
    if (!place.done) {
      take(place);
    }
  }
  start_full_buckets();
}

void GradientSums::finish() {
  const c10::AutoGradMode no_gradients(false);
  std::vector<at::Tensor> marks;  // all of a bucket's at once: a GPU is asked once, not per tensor
  for (Bucket& bucket : buckets_) {
    bucket.sum->wait();
    bucket.sum.reset();
    const int64_t first = bucket.values.numel() - static_cast<int64_t>(bucket.places);
    marks.push_back(bucket.values.slice(0, first).to(at::kCPU, at::kDouble));
  }
  for (const Place& place : places_) {
    const at::Tensor& parameter = parameters_.entries()[place.entry].tensor;
    const at::Tensor& values = buckets_[place.bucket].values;
    const at::Tensor& of_bucket = marks[place.bucket];
    const int64_t mark = place.mark - (values.numel() - of_bucket.numel());
    if (of_bucket.const_data_ptr<double>()[mark] > 0) {
      // a view: nobody reads the bucket again before the gradients are cleared
      parameter.mutable_grad() =
          values.narrow(0, place.offset, parameter.numel()).view_as(parameter);
    } else {
      parameter.mutable_grad().reset();
    }
  }
}

}  // namespace perceiver::train
