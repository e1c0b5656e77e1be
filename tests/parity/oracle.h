#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_spec.h"
#include "perceiver/tokens/engine.h"

// What a peer computed, in one form whatever recorded it, and the comparison with ours.

namespace perceiver::parity {

/// One forward of the peer. Stage names are those of Trace plus `logits[.<output>]`.
struct OracleCall {
  ArrayMap inputs;  ///< the peer's argument names
  ArrayMap f32;     ///< its float32 results
  ArrayMap f64;     ///< float64 results with float64 tables; may lack stages
};

/// Reads `in.*`, `f32.*`, `f64.*` and `f64_tables.*` (which wins over f64) of an io.safetensors.
/// A name whose first part is one of `calls` belongs to that call, every other to the call "".
std::map<std::string, OracleCall> read_oracle(const std::filesystem::path& file,
                                              const std::vector<std::string>& calls);

/// Renames stages of one call.
void rename_stages(OracleCall& call, const std::map<std::string, std::string>& names);

/// All our stages of one call.
struct OurStages {
  ArrayMap f32;  ///< float32 engine with float32 tables
  ArrayMap f64;  ///< float64 engine with float64 tables
};
OurStages run_ours(const ModelSpec& spec, const ArrayMap& weights, const ModelInputs& inputs,
                   const OutputRequest& request = {});
/// Same from tensors under transformers' argument names.
OurStages run_ours(const ModelSpec& spec, const ArrayMap& weights, const ArrayMap& tensors);

/// Largest float32 error of the peer at each stage, of max |value|, over all calls of a model.
/// One call's largest error is a single draw of chance, of theirs as of ours, and two draws differ
/// by more than any factor worth testing (over all stages and models by up to 4.1 with the kernels
/// for AVX2, by 5.0 with the portable ones). The same computation on the model's other inputs gives
/// more draws of it. The root mean square is steady and stays a bar of each call alone.
std::map<std::string, double> peer_errors(const std::map<std::string, OracleCall>& calls);

struct Bars {
  double f64 = 1e-10;      ///< of max |value|, float64 against float64
  double f32_factor = 2;   ///< our float32 error over the peer's own, root mean square
  double f32_outlier = 4;  ///< the same of the largest errors: one ill-conditioned row decides it
                           ///< alone, and two roundings of that row differ by more than two
  /// The peer's largest errors at each stage, of max |value|: see peer_errors(). A stage's bar is
  /// at least as wide as that.
  std::map<std::string, double> peer;
  double floor = 5e-7;     ///< of max |value|, four last bits: below it an error ratio is chance
  double like_f32 = 3e-5;  ///< of max |value|, float32 against float32, where no f64 was recorded
};
/// Compares every stage the peer recorded; reports each stage that is missing or too far off.
/// Where text is shorter than the maximum the peer decodes all rows and we only the real ones: the
/// peer's leading rows are compared.
void expect_same_stages(const OracleCall& peer, const OurStages& ours, const Bars& bars = {});

}  // namespace perceiver::parity
