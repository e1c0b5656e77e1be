#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/base/array.h"
#include "perceiver/spec/model_shape.h"
#include "perceiver/spec/model_spec.h"

namespace perceiver::train {

/// Whether `array` [n, ...] is what `input` reads, in shape and kind of number.
/// @param named  what to call the array @throws Error(kShape) with both shapes
void check_input_array(const InputSpec& input, const Array& array, const std::string& named);

/// Tokens an input becomes: what its mask covers. @param array  that feeds it
int64_t mask_tokens(const ModelShape& shape, const InputSpec& input, const Array& array);

/// Shape of one example of an output, without the batch axis; nothing where an upsampling head
/// decides it (then the first batch shows).
/// @param of_input  array that feeds the input the output refers to; undefined if it refers to none
/// @param queries   array of the caller's queries; undefined if the output has its own
std::optional<std::vector<int64_t>> example_shape(const ModelSpec& model, const ModelShape& shape,
                                                  const OutputSpec& output, const Array& of_input,
                                                  const Array& queries);

/// "[n, 3, 4]": a shape whose first axis counts examples.
std::string examples_shape(const std::vector<int64_t>& of_one);

}  // namespace perceiver::train
