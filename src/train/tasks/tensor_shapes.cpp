#include "train/tasks/tensor_shapes.h"

#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "train/task.h"

namespace perceiver::train {
namespace {

bool is_integer(DType dtype) {
  return dtype != DType::kF64 && dtype != DType::kF32 && dtype != DType::kF16 &&
         dtype != DType::kBF16;
}

std::vector<int64_t> of_one(const Array& array) {
  return {array.shape().begin() + 1, array.shape().end()};
}

std::string needed_shape(const InputSpec& input) {
  const auto most = [&] { return cat("up to ", input.index_dims.at(0)); };
  switch (input.kind) {
    case InputKind::kText:
      return cat("token ids [n, ", most(), "]");
    case InputKind::kSet:
      return cat("[n, ", most(), ", ", input.coordinates + input.channels, "]");
    case InputKind::kLabel:
      return examples_shape({input.channels});
    case InputKind::kGrid:
      break;
  }
  std::vector<int64_t> grid = input.index_dims;
  grid.push_back(input.channels);
  return examples_shape(grid);
}

bool fits(const InputSpec& input, const Array& array) {
  const std::vector<int64_t> one = of_one(array);
  std::vector<int64_t> grid = input.index_dims;
  switch (input.kind) {
    case InputKind::kText:
      return one.size() == 1 && one[0] >= 1 && one[0] <= grid.at(0) && is_integer(array.dtype());
    case InputKind::kSet:
      return one.size() == 2 && one[0] >= 1 && one[0] <= grid.at(0) &&
             one[1] == input.coordinates + input.channels;
    case InputKind::kLabel:
      return one == std::vector<int64_t>{input.channels};
    case InputKind::kGrid:
      break;
  }
  grid.push_back(input.channels);
  return one == grid;
}

const TokenShape& tokens_of(const ModelShape& shape, const std::string& input) {
  return *std::find_if(shape.inputs.begin(), shape.inputs.end(),
                       [&](const TokenShape& tokens) { return tokens.name == input; });
}

int64_t rows_of(const ModelSpec& model, const ModelShape& shape, const OutputSpec& output,
                const Array& of_input, const Array& queries) {
  const bool follows_text =
      output.query == QueryKind::kLearned && output.head == HeadKind::kTiedEmbedding;
  if (output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent ||
      follows_text) {
    return mask_tokens(shape, model.input(output.of_input), of_input);
  }
  if (output.query == QueryKind::kCaller || output.query == QueryKind::kCoordinates) {
    return queries.size(1);
  }
  return element_count(output.index_dims);
}

}  // namespace

std::string examples_shape(const std::vector<int64_t>& of_one) {
  const std::string one = shape_string(of_one);
  return of_one.empty() ? "[n]" : "[n, " + one.substr(1);
}

void check_input_array(const InputSpec& input, const Array& array, const std::string& named) {
  if (!fits(input, array)) {
    throw Error(ErrorCode::kShape,
                cat(named, " is ", dtype_name(array.dtype()), " ", examples_shape(of_one(array)),
                    ", the model's input ", printable(input.name), " reads ", needed_shape(input)));
  }
}

int64_t mask_tokens(const ModelShape& shape, const InputSpec& input, const Array& array) {
  return input.kind == InputKind::kText || input.kind == InputKind::kSet
             ? array.size(1)
             : tokens_of(shape, input.name).tokens;
}

std::optional<std::vector<int64_t>> example_shape(const ModelSpec& model, const ModelShape& shape,
                                                  const OutputSpec& output, const Array& of_input,
                                                  const Array& queries) {
  const HeadKind head = output.head;
  if (head == HeadKind::kDepthToSpace || head == HeadKind::kConvUpsample ||
      head == HeadKind::kConvexUpsample) {
    return std::nullopt;
  }
  const int64_t width = head == HeadKind::kTiedEmbedding ? model.input(output.of_input).vocab_size
                        : head == HeadKind::kNone && !model.decoder.final_project
                            ? shape.query_channels
                            : output_width(model, output);
  if (output.single_row || model.decoder.kind == DecoderKind::kProjection) {
    return std::vector<int64_t>{width};
  }
  const int64_t rows = rows_of(model, shape, output, of_input, queries);
  if (output.flatten_channels) {
    return std::vector<int64_t>{rows * width};
  }
  std::vector<int64_t> result{rows};
  if (output.keep_grid && element_count(output.index_dims) == rows) {
    result = output.index_dims;
  }
  result.push_back(width);
  return result;
}

}  // namespace perceiver::train
