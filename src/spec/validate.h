#pragma once

#include "perceiver/spec/model_spec.h"

namespace perceiver::spec_detail {

/// Every rule that needs no derived width: names, ranges, lengths of lists, references between
/// parts and combinations that mean nothing. @throws Error(kArgument)
void check_fields(const ModelSpec& spec);

std::string place_of(const InputSpec& input);
std::string place_of(const OutputSpec& output);

}  // namespace perceiver::spec_detail
