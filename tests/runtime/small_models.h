#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/engine.h"

// Models of every kind at sizes that take milliseconds, with weights and inputs that exercise them.

namespace perceiver::runtime {

/// A preset with its widths and extents divided and a few layers left; same structure.
ModelSpec small_preset(const std::string& name);

/// What no preset has: several heads in cross-attention, caller's queries, learned positions of
/// another grid, upsampling heads, position linears, replaced tokens. Each named by what it shows.
std::vector<ModelSpec> odd_models();

/// Random weights in which no bias or scale is trivial.
ArrayMap lively_weights(const ModelSpec& spec, uint64_t seed = 7);

/// Random values for every input, of the sizes the spec says; texts and sets a little shorter.
ModelInputs random_inputs(const ModelSpec& spec, int64_t batch, uint64_t seed = 11);
/// Adds masks with some tokens invalid in each example.
void mask_some(const ModelSpec& spec, ModelInputs& inputs, uint64_t seed = 13);

/// Queries for outputs whose rows the caller gives.
OutputRequest request_of(const ModelSpec& spec, int64_t batch, uint64_t seed = 17);

}  // namespace perceiver::runtime
