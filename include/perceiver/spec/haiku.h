#pragma once

#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"

// DeepMind's side of the language: which spec computes what the Haiku code computes, and where each
// tensor of a pickle goes (deepmind_checkpoint.md sections 2 to 5).

namespace perceiver {

/// The same model with every compatibility switch set as DeepMind's code behaves: tanh GELU, SAME
/// padding, zero for fully masked rows, query mask honoured, zero-debiased batch-norm averages, no
/// attention dropout, and for the learned-position ImageNet model no decoder query residual.
ModelSpec as_deepmind(ModelSpec spec);
/// The reverse: every switch as transformers behaves.
ModelSpec as_transformers(ModelSpec spec);

/// Guesses which released model the parameters belong to ("language-perceiver", ...).
/// @throws Error(kFormat) naming what was looked for
std::string recognise_haiku(const ArrayMap& params);

/// Transposes, permutes and renames "<module>/<param>" tensors into our layout; the 7x7 stem is
/// permuted (3, 2, 0, 1). Of batch-norm state `counter` becomes num_batches_tracked and `hidden` is
/// not needed: it is the average times 1 - decay^counter.
/// @throws Error(kFormat) naming missing, surplus and misshapen tensors under their Haiku names
ArrayMap from_haiku(const ModelSpec& spec, const ArrayMap& params, const ArrayMap& state,
                    const std::string& where);

}  // namespace perceiver
