#pragma once

#include "perceiver/base/array.h"
#include "perceiver/base/json.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/train/recipe.h"
#include "perceiver/train/train.h"

namespace perceiver::train {

/// Replaces the tensors of `weights` that the model `from` names has under the same name. Heads
/// ("outputs." and "decoder.final.") may be missing on either side or differ in shape: then ours
/// stay as they are. Of a text's token embedding and position table the rows that both have are
/// taken. Everything else must be there in the same shape, or be named by StartFrom::except.
/// @param weights  of `model`, complete, float32
/// @throws Error(kArgument) listing tensors that are missing, surplus or of another shape, or
///         naming attention heads that differ; what tasks::load_bundle() throws
StartReport take_weights(const StartFrom& from, const ModelSpec& model, ArrayMap& weights);

Json to_json(const StartReport& report);

}  // namespace perceiver::train
