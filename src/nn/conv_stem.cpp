#include "nn/conv_stem.h"

#include <algorithm>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/relu.h>

#include "perceiver/base/str.h"

namespace perceiver::nn {
namespace {

constexpr double kBatchNormEps = 1e-5;
constexpr double kBatchNormDecay = 0.9;

struct Padding {
  int64_t before;
  int64_t after;
};

/// JAX's SAME: out = ceil(n / stride), the odd pixel of padding goes after.
Padding same_padding(int64_t extent, int64_t kernel, int64_t stride) {
  const int64_t out = (extent + stride - 1) / stride;
  const int64_t total = std::max<int64_t>((out - 1) * stride + kernel - extent, 0);
  return {total / 2, total - total / 2};
}

at::Tensor pad_same(const at::Tensor& x, int64_t kernel, double value) {
  const Padding rows = same_padding(x.size(2), kernel, 2);
  const Padding columns = same_padding(x.size(3), kernel, 2);
  return at::constant_pad_nd(x, {columns.before, columns.after, rows.before, rows.after}, value);
}

/// DeepMind's running averages: Adam-style zero-debiased, biased variance. The stored value is the
/// debiased average, so with the step count the biased accumulator is recovered exactly:
/// hidden = average * (1 - decay^count).
/// @param count  batches so far, on the values' device: a GPU need not wait for the host to read it
void update_average(at::Tensor average, const at::Tensor& batch_value, const at::Tensor& count) {
  const at::Tensor left = at::pow(kBatchNormDecay, count.to(at::kDouble));
  const at::Tensor after = 1 - left * kBatchNormDecay;
  average.mul_((1 - left) * kBatchNormDecay / after)
      .add_(batch_value * ((1 - kBatchNormDecay) / after));
}

at::Tensor batch_norm(const StemContext& context, const std::string& prefix, const at::Tensor& x) {
  const Parameters& parameters = context.parameters;
  at::Tensor mean = parameters.at(prefix + ".running_mean");
  at::Tensor variance = parameters.at(prefix + ".running_var");
  at::Tensor count = parameters.at(prefix + ".num_batches_tracked");
  const bool debiased =
      context.spec.compatibility.batch_norm_average == BatchNormAverage::kZeroDebiased;
  if (context.training && debiased) {
    const at::NoGradGuard no_grad;
    const at::Tensor values = x.detach();
    update_average(mean, values.mean({0, 2, 3}), count);
    update_average(variance, values.var({0, 2, 3}, /*unbiased=*/false), count);
  }
  if (context.training) {
    count.add_(1);
  }
  const bool update_in_place = context.training && !debiased;
  return at::batch_norm(x, parameters.at(prefix + ".weight"), parameters.at(prefix + ".bias"),
                        context.training && debiased ? at::Tensor() : mean,
                        context.training && debiased ? at::Tensor() : variance,
                        /*training=*/context.training, update_in_place ? 1 - kBatchNormDecay : 0.0,
                        kBatchNormEps,
                        /*cudnn_enabled=*/true);
}

at::Tensor conv_layer(const StemContext& context, const InputSpec& input, int64_t layer,
                      at::Tensor x) {
  const std::string prefix = cat("inputs.", input.name);
  const at::Tensor& kernel = context.parameters.at(cat(prefix, ".conv.", layer, ".weight"));
  const bool same = context.spec.compatibility.conv_padding == ConvPadding::kSame;
  x = same ? at::conv2d(pad_same(x, 7, 0), kernel, {}, {2, 2})
           : at::conv2d(x, kernel, {}, {2, 2}, {3, 3});
  if (input.batch_norm) {
    x = batch_norm(context, cat(prefix, ".batch_norm.", layer), x);
  }
  x = at::relu(x);
  if (same) {
    x = pad_same(x, 3, -std::numeric_limits<double>::infinity());
  }
  return at::max_pool2d(x, {3, 3}, {2, 2});
}

}  // namespace

at::Tensor conv_stem(const StemContext& context, const InputSpec& input, const at::Tensor& raw) {
  const bool video = raw.dim() == 5;
  at::Tensor x = video ? raw.flatten(0, 1) : raw;
  x = x.permute({0, 3, 1, 2});
  for (int64_t layer = 0; layer < input.num_conv_layers; ++layer) {
    x = conv_layer(context, input, layer, x);
  }
  x = x.permute({0, 2, 3, 1});
  return video ? x.unflatten(0, {raw.size(0), raw.size(1)}) : x;
}

}  // namespace perceiver::nn
