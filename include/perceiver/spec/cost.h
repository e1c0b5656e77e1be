#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/spec/model_spec.h"

namespace perceiver {

/// Matrix-multiplication work of one stage at batch 1, multiply and add counted separately
/// (reference: architecture.md section 10).
struct StageCost {
  std::string stage;  ///< "preprocess", "encode", "process", "decode", "head"
  int64_t parameters = 0;
  double flops = 0;
  double score_bytes = 0;  ///< largest score matrix if it were made whole, float32
};

struct ModelCost {
  std::vector<StageCost> stages;
  int64_t parameters = 0;
  double flops = 0;
};

/// @param num_outputs  rows decoded; < 0 = all
ModelCost textbook_cost(const ModelSpec& spec, int64_t num_outputs = -1);

}  // namespace perceiver
