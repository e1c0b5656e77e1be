#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "perceiver/base/array.h"
#include "perceiver/nn/parameters.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/spec/plan.h"
#include "perceiver/tokens/engine.h"
#include "perceiver/tokens/token_array.h"

namespace perceiver::nn {

using TensorMap = std::map<std::string, at::Tensor>;
using TokenSegment = tokens::TokenSegment<at::Tensor>;
using TokenArray = tokens::TokenArray<at::Tensor>;

/// ModelInputs as tensors (same names, shapes and meaning).
struct TensorInputs {
  TensorMap arrays;
  TensorMap masks;
  TensorMap replaced;
};

/// OutputRequest as tensors.
struct TensorRequest {
  std::vector<std::string> only;
  std::map<std::string, std::vector<int64_t>> points;
  TensorMap queries;
  TensorMap query_masks;
  int64_t rows_per_block = 0;
  ProgressFn progress;
};

/// Intermediate tensors; keys as in perceiver::Trace.
struct TensorTrace {
  bool attention = false;
  std::vector<std::string> only;
  TensorMap tensors;
};

struct ModelOptions {
  at::ScalarType dtype = at::kFloat;
  DType tables = DType::kF32;  ///< see EngineOptions
  at::Device device = at::kCPU;
  Plan plan = Plan::kAuto;  ///< exact orders of computing the cross-attentions
  /// Training: keep only the latents between self-attention layers and make the rest of each layer
  /// again in the backward pass; a third more work there. Without effect while dropout is active.
  bool recompute_layers = false;
  /// Use the caller's memory where dtype and device allow instead of copying: for inference on
  /// mapped files. Such weights must not be trained.
  bool share_weights = false;
};

class GridTablesCache;
class Merger;

/// The differentiable model: LibTorch around our attention, any ModelSpec, textbook order or
/// another exact one (docs/plans.md). Gradients flow to every trainable parameter and to
/// floating-point inputs; the model must outlive the backward pass. No score matrix is ever whole,
/// and of long outputs the rows behind the decoder's attention are made again backward, in blocks.
class Model {
 public:
  /// @throws Error(kArgument) as validate() does, Error(kFormat) as check_parameters() does
  Model(const ModelSpec& spec, const ArrayMap& weights, const ModelOptions& options = {});

  const ModelSpec& spec() const { return spec_; }
  const ModelShape& shape() const { return shape_; }
  /// Weights and batch-norm statistics, by our names.
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

  /// Training mode: dropout is active, batch norm uses and updates batch statistics.
  void set_training(bool on) { training_ = on; }
  bool training() const { return training_; }

  /// From now on the only input is read together with the other processes of `merger`, which
  /// outlives the model; inputs are given whole or as this process's input_part(). Null: alone.
  /// @throws Error(kUnsupported) as check_input_parallel() does
  void read_together(Merger* merger);
  /// Where forward() brings its results, once made; by default they stay on the model's device.
  void set_result_device(std::optional<at::Device> device) { result_device_ = device; }
  const ModelOptions& options() const { return options_; }

  /// Modality data -> token array, weights of the stems included.
  /// @throws Error(kShape) naming the modality, the expected and the given shape
  TokenArray preprocess(const TensorInputs& inputs);
  /// [B, M, C], the dense view.
  at::Tensor dense(const TokenArray& tokens) const;

  /// Encoder and processor. @return latents [B, N, D]
  at::Tensor encode(const TokenArray& tokens, TensorTrace* trace = nullptr);
  /// Decoder, heads and output shapes. `tokens` serve queries made of inputs; may be empty
  /// otherwise.
  TensorMap decode(const at::Tensor& latents, const TokenArray& tokens,
                   const TensorRequest& request, TensorTrace* trace = nullptr);

  TensorMap forward(const TensorInputs& inputs, const TensorRequest& request = {},
                    TensorTrace* trace = nullptr);

  /// How the attentions of the last encode and decode were computed, in the order of the walk.
  std::vector<UsedPlan> plans() const;

 private:
  /// Decides the plans of an encode or decode; `rows` as in PlanRequest::num_inputs, num_outputs.
  std::vector<AttentionPlan> choose_plans(int64_t batch, int64_t inputs, int64_t outputs) const;
  void merge_plans(PlanRequest request, std::vector<AttentionPlan>& plans) const;

  ModelSpec spec_;
  ModelShape shape_;
  ModelOptions options_;
  Parameters parameters_;
  std::shared_ptr<GridTablesCache> grids_;
  std::vector<UsedPlan> encode_plans_, decode_plans_;
  Merger* merger_ = nullptr;
  std::optional<at::Device> result_device_;
  bool training_ = false;
};

}  // namespace perceiver::nn
