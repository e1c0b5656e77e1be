#include "perceiver/nn/merger.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>

#include "nn/merge_parts.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/spec/model_shape.h"

namespace perceiver::nn {
namespace {

[[noreturn]] void refuse(const ModelSpec& spec, const std::string& why) {
  throw Error(ErrorCode::kUnsupported, cat("input_parallel: ", printable(spec.name), " ", why));
}

int64_t patch_slices(const InputSpec& input) {
  return input.downsample.empty() ? 1 : input.downsample[0];
}

/// Along the first axis; a stride's last step may be short.
int64_t patch_count(const InputSpec& input) {
  const int64_t slices = patch_slices(input);
  return (input.index_dims.at(0) + slices - 1) / slices;
}

/// The weighted sum over processes: sum_r w_r mixed_r with w_r = exp(lse_r - logsumexp(lse)).
struct MergeParts : public torch::autograd::Function<MergeParts> {
  using Context = torch::autograd::AutogradContext;

  static at::Tensor forward(Context* context, const at::Tensor& mixed, const at::Tensor& lse,
                            Merger* merger) {
    // one message: the sums ride as a channel of their own
    const at::Tensor all = merger->gather(at::cat({mixed, lse.unsqueeze(-1)}, -1));
    const int64_t channels = mixed.size(-1);
    const at::Tensor sums = all.select(-1, channels);  // [size, B, H, N]
    const at::Tensor weights = at::exp(sums - at::logsumexp(sums, {0}, /*keepdim=*/true));
    const at::Tensor merged = at::mul(all.narrow(-1, 0, channels), weights.unsqueeze(-1)).sum(0);
    context->save_for_backward({mixed, merged, weights.select(0, merger->rank()).unsqueeze(-1)});
    context->saved_data["size"] = static_cast<int64_t>(merger->size());
    return merged;
  }

  /// Every process goes back through the same arithmetic behind the merge, with its share of one
  /// loss, so the gradient of the sum of all shares is `size` times the one that arrives here:
  /// nothing has to be sent.
  static torch::autograd::variable_list backward(Context* context,
                                                 const torch::autograd::variable_list& grads) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &mixed = saved[0], &merged = saved[1], &weight = saved[2];
    const at::Tensor own = grads[0] * weight * context->saved_data["size"].toInt();
    return {own, (own * (mixed - merged)).sum(-1), at::Tensor()};
  }
};

}  // namespace

InputPart input_part(const InputSpec& input, int rank, int size) {
  const int64_t patches = patch_count(input);
  const auto edge = [&](int process) {
    return std::min(patches * process / size * patch_slices(input), input.index_dims[0]);
  };
  return {edge(rank), edge(rank + 1) - edge(rank)};
}

void check_input_parallel(const ModelSpec& spec, int size) {
  if (spec.inputs.size() != 1 || spec.inputs[0].kind != InputKind::kGrid) {
    refuse(spec, cat("has ", spec.inputs.size(), " input(s); needs one, on a grid"));
  }
  const InputSpec& input = spec.inputs[0];
  if (input.stem == Stem::kConv) {
    refuse(spec, cat("reads input ", printable(input.name),
                     " through convolutions, which need their neighbours' edges"));
  }
  if (input.mask_probability >= 0) {
    refuse(spec, cat("replaces tokens of input ", printable(input.name), " at random"));
  }
  if (spec.encoder.num_cross_attends != 1) {
    refuse(spec, cat("reads its input ", spec.encoder.num_cross_attends, " times; needs once"));
  }
  if (spec.compatibility.attention_dropout > 0) {
    refuse(spec, cat("has attention_dropout ", spec.compatibility.attention_dropout,
                     "; the merge needs every weight"));
  }
  for (const OutputSpec& output : spec.outputs) {
    const bool asks_input = output.query == QueryKind::kInputTokens ||
                            output.query == QueryKind::kInputContent || output.concat_input;
    if (asks_input) {
      refuse(spec, cat("asks for output ", printable(output.name), " by the tokens of input ",
                       printable(input.name), ", of which each process has a part"));
    }
  }
  if (patch_count(input) < size) {
    refuse(spec, cat("has ", patch_count(input), " slice(s) along the first axis of input ",
                     printable(input.name), ", too few for ", size, " processes"));
  }
}

at::Tensor merge_parts(const ReadTokens& read, Merger& merger) {
  return MergeParts::apply(read.mixed, read.lse, &merger);
}

}  // namespace perceiver::nn
