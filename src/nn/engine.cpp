#include "perceiver/nn/engine.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/nn/device.h"
#include "perceiver/nn/model.h"
#include "perceiver/nn/tensor.h"

namespace perceiver::nn {
namespace {

TensorMap to_tensors(const ArrayMap& arrays) {
  TensorMap tensors;
  for (const auto& [name, array] : arrays) {
    tensors.emplace(name, to_tensor(array));
  }
  return tensors;
}

ArrayMap to_arrays(const TensorMap& tensors) {
  ArrayMap arrays;
  for (const auto& [name, tensor] : tensors) {
    // half-width floats stay inside the engine
    const bool narrow = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
    arrays.emplace(name, to_array(narrow ? tensor.to(at::kFloat) : tensor));
  }
  return arrays;
}

/// Whether the decoder looks at the inputs again.
bool queries_need_tokens(const ModelSpec& spec) {
  return std::any_of(spec.outputs.begin(), spec.outputs.end(), [](const OutputSpec& output) {
    return output.concat_input || output.query == QueryKind::kInputTokens ||
           output.query == QueryKind::kInputContent;
  });
}

class NnEncoded : public Encoded {
 public:
  NnEncoded(at::Tensor latents, TokenArray tokens)
      : latents_(std::move(latents)), tokens_(std::move(tokens)) {}
  Array latents() const override { return to_arrays({{"", latents_}}).at(""); }
  const at::Tensor& tensor() const { return latents_; }
  const TokenArray& tokens() const { return tokens_; }

 private:
  at::Tensor latents_;
  TokenArray tokens_;
};

class NnEngine : public Engine {
 public:
  NnEngine(const ModelSpec& spec, const ArrayMap& weights, const ModelOptions& options)
      : model_(spec, weights, options), keep_tokens_(queries_need_tokens(spec)) {}

  const ModelSpec& spec() const override { return model_.spec(); }
  std::string name() const override { return "nn"; }
  std::vector<UsedPlan> plans() const override { return model_.plans(); }

  std::unique_ptr<Encoded> encode(const ModelInputs& inputs, Trace* trace) override {
    const at::NoGradGuard no_grad;
    TensorTrace traced = like(trace);
    TokenArray tokens = model_.preprocess(
        {to_tensors(inputs.arrays), to_tensors(inputs.masks), to_tensors(inputs.replaced)});
    at::Tensor latents = model_.encode(tokens, trace != nullptr ? &traced : nullptr);
    merge(traced, trace);
    if (!keep_tokens_) {
      // the decoder needs only how many tokens there were
      for (TokenSegment& segment : tokens.segments) {
        segment.content = segment.positions = segment.mask = at::Tensor();
      }
    }
    return std::make_unique<NnEncoded>(std::move(latents), std::move(tokens));
  }

  ArrayMap decode(const Encoded& encoded, const OutputRequest& request, Trace* trace) override {
    const at::NoGradGuard no_grad;
    const auto* ours = dynamic_cast<const NnEncoded*>(&encoded);
    if (ours == nullptr) {
      throw Error(ErrorCode::kArgument, "these latents were encoded by another engine");
    }
    TensorTrace traced = like(trace);
    const TensorRequest tensors{request.only,
                                request.points,
                                to_tensors(request.queries),
                                to_tensors(request.query_masks),
                                request.rows_per_block,
                                request.progress};
    TensorMap outputs = model_.decode(ours->tensor(), ours->tokens(), tensors,
                                      trace != nullptr ? &traced : nullptr);
    merge(traced, trace);
    return to_arrays(outputs);
  }

 private:
  static TensorTrace like(const Trace* trace) {
    TensorTrace traced;
    if (trace != nullptr) {
      traced.attention = trace->attention;
      traced.only = trace->only;
    }
    return traced;
  }

  static void merge(const TensorTrace& traced, Trace* trace) {
    if (trace != nullptr) {
      for (auto& [name, array] : to_arrays(traced.tensors)) {
        trace->arrays[name] = array;
      }
    }
  }

  Model model_;
  bool keep_tokens_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const ModelSpec& spec, const ArrayMap& weights,
                                    const EngineOptions& options) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kF64 &&
      options.dtype != DType::kBF16) {
    throw Error(ErrorCode::kArgument,
                cat("the nn engine computes in F32, F64 or BF16, not ", dtype_name(options.dtype)));
  }
  if (options.num_threads > 0) {
    at::set_num_threads(options.num_threads);
  }
  return std::make_unique<NnEngine>(spec, weights,
                                    ModelOptions{.dtype = to_scalar_type(options.dtype),
                                                 .tables = options.tables,
                                                 .device = parse_device(options.device),
                                                 .plan = options.plan,
                                                 .share_weights = true});
}

}  // namespace perceiver::nn
